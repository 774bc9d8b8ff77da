"""Steps on request, so that an outer benchmark can interleave this with another program.

Writes one JSON line when ready. Then, for each line "run N" on the standard input, runs N steps and
writes one JSON line; "quit" or the end of the input ends it.
"""

import json
import sys
from typing import TextIO

from measure import Step, report
from others import Others
from setting import Setting
from shapes import SHAPES
from trainer import Trainer


def say(out: TextIO, **fields: object) -> None:
    print(json.dumps(fields), file=out, flush=True)


def count_of(line: str) -> int:
    """N of "run N"; raises ValueError with what is allowed."""
    words = line.split()
    if len(words) != 2 or words[0] != "run" or not words[1].isdigit() or int(words[1]) == 0:
        raise ValueError(f"{line.strip()!r}: want 'run N' with N >= 1, or 'quit'")
    return int(words[1])


def serve(
    model: str, setting: Setting, dtype: str, source: TextIO = sys.stdin, out: TextIO = sys.stdout
) -> None:
    trainer = Trainer(SHAPES[model], setting, dtype)
    warmup = trainer.warm_up()
    shape = SHAPES[model]
    say(
        out,
        ready=True,
        setting=json.loads(setting.to_json()),
        tokens_per_step=shape.tokens_per_step,
        warmup_s=round(warmup, 2),
    )
    for line in source:
        if line.strip() == "quit":
            return
        try:
            steps = count_of(line)
        except ValueError as error:
            say(out, error=str(error))
            continue
        others = Others()
        done = [Step(trainer.timed_step(), others.cores()) for _ in range(steps)]
        result = report(model, setting.experts is not None, done)
        say(out, times=[step.seconds for step in done], **result)
