"""A run's folder: which step it goes on from, and what is said about it."""

import os
import shutil
import subprocess
import tempfile
import time
import warnings

import small
from harness import TRAIN, Skip, case, main, raises, run, scratch

import fmoe

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")


def trained(steps: int = 1):
    m = small.model()
    opt = fmoe.AdamW(m, lr=0.01)
    for _ in range(steps):
        train_step(m, opt)
    return m, opt


def train_step(m, opt) -> None:
    m(*small.batch()).loss.backward()
    opt.step()


def names(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("step_"))


@case
def another_run_is_refused() -> None:
    with scratch() as folder:
        m, opt = trained()
        old = fmoe.Checkpointer(folder)
        for step in (100, 200, 300):
            old.save(step, model=m, optimizer=opt)
        old.wait()
        before = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in names(folder)}
        new = fmoe.Checkpointer(folder)
        words = ("step 10 was not saved", "step 300", folder, "another folder", "load")
        raises(ValueError, lambda: new.save(10, model=m, optimizer=opt), *words)
        after = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in names(folder)}
        assert after == before
        assert new.load(model=m, optimizer=opt) == 300
        new.save(310, model=m, optimizer=opt)
        new.wait()
        assert new.steps() == [200, 300, 310]


@case
def going_back() -> None:
    with scratch() as folder:
        m, opt = trained()
        ckpt = fmoe.Checkpointer(folder)
        saved = {}
        for step in (1, 2, 3):
            ckpt.save(step, model=m, optimizer=opt)
            saved[step] = small.weights(m)
            train_step(m, opt)
        raises(fmoe.CheckpointError, lambda: ckpt.load(model=m, step=7), "step 7", "[1, 2, 3]")
        assert ckpt.load(model=m, optimizer=opt, step=1) == 1
        assert small.weights(m) == saved[1]
        train_step(m, opt)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            ckpt.save(2, model=m, optimizer=opt)
            ckpt.wait()
        assert [w.category for w in heard] == [RuntimeWarning], heard
        assert "went back to step 1" in str(heard[0].message), heard[0]
        assert names(folder) == [
            "step_00000001",
            "step_00000002",
            "step_00000002.abandoned",
            "step_00000003.abandoned",
        ]
        fresh = fmoe.Checkpointer(folder)
        assert fresh.load(model=m, optimizer=opt) == 2
        aside = fmoe.checkpoint_info(os.path.join(folder, "step_00000003.abandoned"))
        assert aside["step"] == 3
        shown = run(["-m", "fmoe.tools.verify", os.path.join(folder, "step_00000003.abandoned")])
        assert shown.returncode == 0 and "good" in shown.stdout, shown.stderr


@case
def a_corrupt_newest_does_not_win_again() -> None:
    """The Trainer takes the older one, goes on below the corrupt one, and is resumed from there."""
    with scratch() as folder:
        root = os.path.join(folder, "run")

        def train(steps: int):
            out = run([CHILD, folder, str(steps), "--save-every", "2"])
            assert out.returncode == 0, out.stderr
            return out

        train(6)
        for name in os.listdir(os.path.join(root, "step_00000006")):
            with open(os.path.join(root, "step_00000006", name), "r+b") as file:
                file.truncate(100)
        out = train(5)
        assert "trying an older" in out.stderr and "went back to step 4" in out.stderr, out.stderr
        assert names(root)[-2:] == ["step_00000005", "step_00000006.abandoned"], names(root)
        out = train(7)
        assert "older" not in out.stderr and "step_00000005" in out.stdout + out.stderr, out.stderr


@case
def an_older_one_that_cannot_be_deleted() -> None:
    """... is said, and training goes on: what was saved is saved."""
    with scratch() as folder:
        m, opt = trained()
        ckpt = fmoe.Checkpointer(folder, keep_last=1)
        ckpt.save(1, model=m, optimizer=opt)
        ckpt.wait()
        inside = os.path.join(folder, "step_00000001")  # a path too long for the writer
        here = os.getcwd()
        os.chdir(inside)
        for _ in range(5):
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
        os.chdir(here)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            ckpt.save(2, model=m, optimizer=opt)
            ckpt.wait()
        assert len(heard) == 1, heard
        text = str(heard[0].message)
        assert "a leftover stays" in text and "step_00000001.dead" in text, text
        assert heard[0].filename == __file__, heard[0].filename
        assert ckpt.load(model=m, optimizer=opt) == 2


@case
def two_checkpointers_of_one_script() -> None:
    with scratch() as folder:
        m, opt = trained()
        a, b = fmoe.Checkpointer(folder), fmoe.Checkpointer(folder + "/.")
        for step in range(1, 7):
            (a if step % 2 else b).save(step, model=m, optimizer=opt)
        assert a.load(model=m, optimizer=opt) == 6  # b's, which was still being written
        a.wait(), b.wait()
        assert a.steps() == [4, 5, 6]


RUN = """
import fmoe, small, sys, time
m = small.model()
o = fmoe.AdamW(m, lr=0.01)
store = fmoe.Checkpointer(sys.argv[1])
store.load(model=m, optimizer=o)
store.save(o.steps + 1, model=m, optimizer=o)
print("holds it", flush=True)
time.sleep(60)
"""


@case
def one_run_at_a_time() -> None:
    """A second run would replace the first's checkpoints and metrics. kill -9 frees the folder."""
    with scratch() as folder:
        run_folder = folder + "/run"
        command = [TRAIN, "-c", RUN, run_folder]
        first = subprocess.Popen(command, cwd=small.FOLDER, stdout=subprocess.PIPE, text=True)
        assert first.stdout.readline() == "holds it\n"
        m = small.model()
        store, opt = fmoe.Checkpointer(run_folder), fmoe.AdamW(m, lr=0.01)
        words = run_folder, f"in use by process {first.pid} on"
        raises(RuntimeError, lambda: store.save(5, model=m), *words)
        look = "import fmoe, small, sys; m = small.model()\n" + (
            "print(fmoe.Checkpointer(sys.argv[1]).load(model=m, optimizer=fmoe.AdamW(m, lr=1.0)))"
        )
        loaded = run(["-c", look, run_folder], cwd=small.FOLDER)
        assert loaded.stdout in ("1\n", "None\n"), loaded.stderr
        assert f"in use by process {first.pid}" in loaded.stderr, loaded.stderr
        with open(folder + "/metrics.jsonl", "w", encoding="ascii") as f:
            f.write('{"kind": "train", "step": 7}\n')
        data = fmoe.ByteDataset(small.write_text(folder))
        loader = fmoe.DataLoader(data, batch_size=2, seq_len=8)
        trainer = fmoe.Trainer(
            m, opt, loader, checkpointer=store, metrics=folder + "/metrics.jsonl"
        )
        raises(RuntimeError, lambda: trainer.fit(2), *words)
        with open(folder + "/metrics.jsonl", encoding="ascii") as f:
            assert '"step": 7' in f.read()
        assert store.load(model=m) in (None, 1)  # to look at it is allowed
        first.kill()
        first.wait()
        store.save(5, model=m)
        store.wait()


@case
def a_forked_child_does_not_keep_the_folder() -> None:
    with scratch() as folder:
        m, store = small.model(), fmoe.Checkpointer(folder + "/run")
        store.save(1, model=m)
        store.wait()
        child = os.fork()
        if child == 0:
            held = [
                os.readlink(f"/proc/self/fd/{fd}")
                for fd in os.listdir("/proc/self/fd")
                if os.path.islink(f"/proc/self/fd/{fd}")
            ]
            os._exit(any("run.lock" in path for path in held))
        assert os.waitpid(child, 0)[1] == 0


@case
def steps_complete_a_background_save() -> None:
    """A loop of one's own needs no poll(): kill -9 loses at most what came after the last save."""
    with scratch() as folder:
        m, store = small.model(), fmoe.Checkpointer(folder + "/run")
        opt = fmoe.AdamW(m, lr=0.01)
        store.save(0, model=m, optimizer=opt)
        for _ in range(1000):
            m(*small.batch()).loss.backward()
            opt.step()
            if store.steps() == [0]:
                break
            time.sleep(0.01)
        assert store.steps() == [0], "1000 steps have not completed it"


@case
def looking_back_is_not_going_back() -> None:
    """A load without optimizer and loader sets nothing aside."""
    with scratch() as folder:
        m, opt = trained()
        store = fmoe.Checkpointer(folder, keep_last=9)
        for step in (1, 2, 3):
            store.save(step, model=m, optimizer=opt)
        assert store.load(model=small.model(), step=2) == 2
        store.save(4, model=m, optimizer=opt)
        store.wait()
        assert store.steps() == [1, 2, 3, 4] and len(names(folder)) == 4


READ_ONLY = """
import os, sys
import fmoe, small
m = small.model()
try:
    os.setgid(65534)  # nobody, who could not read the program
    os.setuid(65534)
except OSError:
    sys.exit(77)
print(fmoe.Checkpointer(sys.argv[1]).load(model=m, optimizer=fmoe.AdamW(m, lr=0.1)))
"""


@case
def a_folder_that_may_only_be_read() -> None:
    """Where a fine-tune starts."""
    if os.geteuid() != 0:
        raise Skip("becoming another user needs root")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        m, opt = trained()
        store = fmoe.Checkpointer(folder)
        store.save(3, model=m, optimizer=opt)
        store.wait()
        os.chmod(os.path.join(folder, "step_00000003"), 0o755)
        os.remove(os.path.join(folder, "run.lock"))
        out = run(["-c", READ_ONLY, folder], cwd=small.FOLDER)
        if out.returncode == 77:
            raise Skip("there is no other user in this namespace")
        assert out.stdout == "3\n", out.stdout + out.stderr


@case
def a_folder_made_again_is_locked_again() -> None:
    with scratch() as folder:
        m, store = small.model(), fmoe.Checkpointer(folder + "/run", asynchronous=False)
        store.save(1, model=m)
        shutil.rmtree(folder + "/run")
        store.save(1, model=m)
        assert os.path.exists(folder + "/run/run.lock")


main()
