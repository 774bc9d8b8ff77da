"""Saving and loading on several ranks: what each rank gets back, and that all are told the same."""

import fcntl
import glob
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile

import multirank
from multirank import case, gather

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(__file__)), "pyembed"))
import small  # (found by the line above)

import _fmoe
import fmoe

RANK, WORLD = fmoe.rank(), fmoe.world_size()
TRAIN = os.readlink("/proc/self/exe")


def folder() -> str:
    """The same new folder on all ranks; rank 0 says where."""
    path = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR")) if RANK == 0 else None
    return _fmoe.broadcast_text(path)


def remove(path: str) -> None:
    gather(0)
    if RANK == 0:
        shutil.rmtree(path)


def the_same(value: object) -> bool:
    digest = hashlib.sha256(json.dumps(value).encode()).digest()
    return len({*gather(int.from_bytes(digest[:3], "big"))}) == 1


def failure(kind: type[Exception], call, *words: str) -> str:
    """All ranks raise the same exception, and all have its words."""
    try:
        call()
    except Exception as error:
        text = str(error)
        assert the_same([type(error).__name__, text]), f"rank {RANK}: {error!r}"
        assert type(error) is kind, repr(error)
        assert all(word in text for word in words), text
        return text
    raise AssertionError(f"no {kind.__name__}")


def made(zero: int = 1, dtype: str = "float32", seed: int = 7, **changes):
    mesh = fmoe.Mesh(zero=zero)
    model = small.model(dtype=dtype, mesh=mesh, seed=seed, **changes)
    return model, fmoe.AdamW(model, lr=0.01)


def steps(model, optimizer, n: int) -> None:
    for _ in range(n):
        model(*small.batch()).loss.backward()
        optimizer.step()


@case
def what_is_saved_comes_back() -> None:
    """On the same ranks, to the last bit: weights, masters, moments, counts."""
    for zero, dtype, background in (
        (1, "float32", True),
        (0, "float32", False),
        (1, "bfloat16", False),
        (0, "bfloat16", True),
    ):
        where = folder()
        model, optimizer = made(zero, dtype)
        steps(model, optimizer, 2)
        store = fmoe.Checkpointer(where + "/run", asynchronous=background)
        store.save(2, model=model, optimizer=optimizer, extra={"note": WORLD})
        steps(model, optimizer, 2)
        want = small.weights(model)
        other, theirs = made(zero, dtype, seed=8)
        again = fmoe.Checkpointer(where + "/run")
        store.wait()
        assert again.load(model=other, optimizer=theirs) == 2
        assert theirs.steps == 2 and again.extra == {"note": WORLD}
        steps(other, theirs, 2)
        assert small.weights(other) == want, (zero, dtype)
        layout = fmoe.checkpoint_info(store.path(2))["manifest"]["layout"]
        assert layout["dp"] == layout["world_size"] == WORLD and layout["zero"] == zero
        remove(where)


ALONE = """
import sys, fmoe, small
model = small.model(dtype=sys.argv[3], seed=9)
optimizer = fmoe.AdamW(model, lr=0.01)
assert fmoe.Checkpointer(sys.argv[1]).load(model=model, optimizer=optimizer) == 2
fmoe.Checkpointer(sys.argv[2]).save(2, model=model, optimizer=optimizer)
"""


def alone(*arguments: str) -> None:
    """A program of one rank, which no launcher has started."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMPI_", "PMIX_", "PMI_", "SLURM_"))
    }
    program = [TRAIN, "-c", ALONE, *arguments]
    out = subprocess.run(program, capture_output=True, text=True, env=clean, cwd=small.FOLDER)
    assert out.returncode == 0, out.stderr


@case
def one_rank_reads_it_and_writes_it_back() -> None:
    for zero, dtype in ((1, "float32"), (0, "bfloat16"), (1, "bfloat16")):
        where = folder()
        model, optimizer = made(zero, dtype)
        steps(model, optimizer, 2)
        store = fmoe.Checkpointer(where + "/many", asynchronous=False)
        store.save(2, model=model, optimizer=optimizer)
        if RANK == 0:
            alone(where + "/many", where + "/one", dtype)
        gather(0)
        names = sorted(os.listdir(where + "/one/step_00000002"))
        assert len([name for name in names if name.startswith("optim")]) == 1, names
        other, theirs = made(1 - zero, dtype, seed=8)
        assert fmoe.Checkpointer(where + "/one").load(model=other, optimizer=theirs) == 2
        steps(model, optimizer, 2)
        steps(other, theirs, 2)
        tolerance = 1e-5 if dtype == "float32" else 1e-2
        for name, value in small.weights(model).items():
            far = distance(value, small.weights(other)[name])
            assert far < tolerance, f"zero {zero} {dtype}: {name} differs by {far}"
        remove(where)


def distance(a, b) -> float:
    if isinstance(a, list):
        return max(distance(x, y) for x, y in zip(a, b, strict=True))
    return abs(a - b)


def damage(path: str) -> None:
    """One bit in the middle, which is an array's data where the arrays are large."""
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


@case
def damage_that_one_rank_finds() -> None:
    """The last rank's moments are its own: no other reads them."""
    where = folder()
    model, optimizer = made(d_model=64)
    store = fmoe.Checkpointer(where, asynchronous=False)
    saved = {}
    for step in (1, 2):
        steps(model, optimizer, 1)
        store.save(step, model=model, optimizer=optimizer)
        saved[step] = small.weights(model)
    if RANK == 0:
        damage(os.path.join(store.path(2), f"optim-rank{WORLD - 1:05d}.h5"))
    gather(0)
    load = lambda **k: store.load(model=model, optimizer=optimizer, **k)  # noqa: E731
    failure(fmoe.CheckpointError, load, f"rank {WORLD - 1}: ", f"optim-rank{WORLD - 1:05d}.h5")
    assert load(on_corrupt="older") == 1
    assert optimizer.steps == 1 and small.weights(model) == saved[1]
    store.save(2, model=model, optimizer=optimizer)  # the branch that is left is kept aside
    assert the_same(sorted(name for name in os.listdir(where) if name != "run.lock"))
    assert os.path.exists(store.path(2) + ".abandoned")
    remove(where)


@case
def what_is_refused_is_refused_to_all() -> None:
    where = folder()
    model, optimizer = made()
    store = fmoe.Checkpointer(where, asynchronous=False)
    assert store.load(model=model) is None
    store.save(5, model=model)
    failure(ValueError, lambda: store.save(4, model=model), "below step 5")
    failure(ValueError, lambda: store.save(5 + RANK, model=model), "step is 5 on rank 0")
    failure(fmoe.CheckpointError, lambda: store.load(model=model, step=3), "it has [5]")
    load = lambda: store.load(model=model, optimizer=optimizer)  # noqa: E731
    failure(fmoe.CheckpointError, load, "without an optimizer")
    store.save(6, model=model)
    remove(where)


@case
def a_run_in_a_folder_is_one_run() -> None:
    where = folder()
    model, _ = made()
    if RANK == 0:  # a lock of another open file, as another program's
        held = open(os.path.join(where, "run.lock"), "w")  # noqa: SIM115
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("process 1 on elsewhere\n")
        held.flush()
    gather(0)
    store = fmoe.Checkpointer(where)
    failure(RuntimeError, lambda: store.save(1, model=model), "in use by process 1 on elsewhere")
    if RANK == 0:
        held.close()
    gather(0)
    store.save(1, model=model)
    store.wait()
    remove(where)


@case
def a_disk_that_is_full_for_one_rank() -> None:
    """Where the last rank may write no file above a few bytes, no rank has saved."""
    for background in (False, True):
        where = folder()
        model, optimizer = made()
        store = fmoe.Checkpointer(where, asynchronous=background)
        store.save(1, model=model, optimizer=optimizer)
        store.wait()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if RANK == WORLD - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))

        def save(store=store, model=model, optimizer=optimizer) -> None:
            store.save(2, model=model, optimizer=optimizer)
            store.wait()

        failure(OSError, save, f"rank {WORLD - 1}: ", "step 2 was not saved", "File too large")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert glob.glob(where + "/step_*") == [store.path(1)]
        assert store.load(model=model, optimizer=optimizer) == 1
        save()
        assert store.steps() == [1, 2]
        remove(where)


@case
def the_end_of_a_program_completes_a_save() -> None:
    """Rank 0 commits what the others have written, though nobody waits."""
    where = folder()
    model, _ = made()
    store = fmoe.Checkpointer(where)
    store.save(1, model=model)
    store._end()  # as at exit: no messages
    assert store.steps() == [1]
    remove(where)


if WORLD == 1:
    sys.exit("start it under mpirun")
multirank.main()
