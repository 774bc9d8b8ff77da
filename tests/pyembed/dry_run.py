"""train --dry-run: scripts end after their first step with the report, and leave nothing behind."""

import os
import re

import small
from harness import case, main, run, scratch

BIG = """
import resource, fmoe
moe = fmoe.MoE(num_experts=64, d_hidden=8192, every=1)
model = fmoe.GPT(vocab_size=32000, n_layer=16, d_model=2048, n_head=16, seq_len=2048, moe=moe,
                 mesh=fmoe.Mesh(ep=16), dtype="bfloat16")
optimizer = fmoe.AdamW(model, lr=1e-3)
tokens = [[i % 500 for i in range(2048)]] * 2
try:
    model(tokens, tokens).loss.backward()
    optimizer.step()
finally:
    print("resident MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print("never reached")
"""

TRAINER = """
import sys, fmoe
sys.path.insert(0, {folder!r})
import small
mesh = fmoe.Mesh(ep=4)
model = small.model(mesh=mesh)
loader = fmoe.DataLoader(fmoe.ByteDataset({data!r}), batch_size=16, seq_len=16, mesh=mesh)
ckpt = fmoe.Checkpointer("saved")
fmoe.Trainer(model, fmoe.AdamW(model, lr=1e-3), loader, checkpointer=ckpt, save_every=1,
             metrics="m/metrics.jsonl").fit(5)
print("never reached")
"""

OWN_LOOP = """
import fmoe, sys
sys.path.insert(0, {folder!r})
import small
model = small.model()
optimizer = fmoe.SGD(model, lr=0.1, micro_batches=2)
ckpt = fmoe.Checkpointer("saved")
assert ckpt.load(model=model, optimizer=optimizer) is None
ckpt.save(1, model=model)
for step in range(3):
    for _ in range(2):
        assert float(model(*small.batch()).loss) == 0.0
        model(*small.batch()).loss.backward()
    try:
        optimizer.step()
    except Exception:
        print("never reached")
"""


def dry(code: str, *options: str, cwd: str | None = None) -> str:
    done = run(["--dry-run", *options, "-c", code], cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never reached" not in done.stdout, done.stdout
    return done.stdout


@case
def a_trainer_ends_with_the_report() -> None:
    with scratch() as folder:
        data = small.write_text(folder)
        text = dry(TRAINER.format(folder=small.FOLDER, data=data), "--world-size", "8", cwd=folder)
        assert "Dry run: rank 0 of 8." in text, text
        assert "ep=4" in text and re.search(r"expert +4 +all_to_all_v +4 ", text), text
        assert sorted(os.listdir(folder)) == ["text.txt"], os.listdir(folder)


@case
def an_own_loop_ends_with_the_report() -> None:
    with scratch() as folder:
        text = dry(
            OWN_LOOP.format(folder=small.FOLDER), "--world-size", "2", "--rank", "1", cwd=folder
        )
        assert "Dry run: rank 1 of 2." in text, text
        assert text.count("Dry run") == 1 and "reduce_scatter" in text, text
        assert os.listdir(folder) == []


@case
def alone_it_sends_nothing() -> None:
    text = dry(OWN_LOOP.format(folder=small.FOLDER), cwd=os.environ.get("TEST_TMPDIR", "/tmp"))
    assert "Dry run: rank 0 of 1." in text and "sent by" not in text, text


@case
def a_script_without_a_step() -> None:
    code = f"import sys; sys.path.insert(0, {small.FOLDER!r}); import small; small.model()"
    assert "without a step" in dry(code)
    assert dry("print('nothing of fmoe')") == "nothing of fmoe\n"


@case
def memory_is_counted_and_not_taken() -> None:
    text = dry(BIG, "--world-size", "64", "--rank", "63")
    in_all = re.search(r"in all, at most +([\d.,]+) GiB", text)
    assert in_all and float(in_all[1].replace(",", "")) > 20, text
    resident = int(re.search(r"resident MiB (\d+)", text)[1])
    assert resident < 300, text


@case
def misuse() -> None:
    for arguments, words in (
        (["--world-size", "4", "x.py"], "--dry-run"),
        (["--dry-run", "--world-size", "4", "--rank", "4", "x.py"], "below --world-size"),
        (["--dry-run", "--world-size", "none", "x.py"], "--world-size"),
        (["--dry-run", "--world-size", "0", "x.py"], "--world-size"),
        (["--dry-run", "--rank", "-1", "x.py"], "--rank"),
    ):
        done = run(arguments)
        assert done.returncode == 2 and words in done.stderr.split("usage")[0], done.stderr
    done = run(["--dry-run", "--world-size", "6", "-c", "import fmoe; fmoe.Mesh(ep=4)"])
    assert done.returncode == 1 and "ep is 4" in done.stderr, done.stderr


@case
def a_failure_is_a_failure() -> None:
    done = run(["--dry-run", "-c", "import fmoe, sys; fmoe.Mesh(); sys.exit(3)"])
    assert done.returncode == 3, done
    done = run(["--dry-run", "-c", "import fmoe; 1 / 0"])
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


main()
