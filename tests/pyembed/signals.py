"""Signals that come while we compute change nothing."""

import hashlib
import json
import os
import signal
import sys

import small
from harness import case, main, run

import fmoe

SECONDS = 0.0003  # between two signals


def trained(with_signals: bool) -> str:
    """A hash of the weights after some steps; large enough for the products of a library."""
    seen = []
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    m = small.model(d_model=128, n_head=4, seq_len=128, activation="swiglu", d_hidden=352)
    opt = fmoe.AdamW(m, lr=0.01)
    if with_signals:
        signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    for _ in range(8):
        m(*small.batch(4, 128)).loss.backward()
        opt.step()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert (len(seen) > 8) == with_signals, len(seen)
    return hashlib.sha256(json.dumps(small.weights(m)).encode()).hexdigest()


@case
def weights_are_those_of_a_quiet_run() -> None:
    # Without faulthandler, which would give handlers a stack of their own.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    for threads in ("1", "2"):
        env["OMP_NUM_THREADS"] = threads
        quiet, loud = (run([__file__, word], env=env) for word in ("quiet", "loud"))
        assert quiet.returncode == loud.returncode == 0, (quiet, loud)
        assert quiet.stdout == loud.stdout != "", threads


if sys.argv[1:] in (["quiet"], ["loud"]):
    print(trained(sys.argv[1] == "loud"))
else:
    main()
