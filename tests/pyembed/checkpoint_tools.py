"""fmoe.tools.inspect and verify: what they say of what is not as it should be, in one line."""

import os
import shutil
import subprocess

import small
from harness import TRAIN, case, main, run, scratch

import fmoe

TOOLS = ("inspect", "verify")


def saved(folder: str, compression: int = 0) -> fmoe.Checkpointer:
    ckpt = fmoe.Checkpointer(os.path.join(folder, "run"), compression=compression)
    m = small.model(d_model=64)
    for step in (1, 2):
        ckpt.save(step, model=m)
    ckpt.wait()
    return ckpt


def flip_data(path: str) -> None:
    """One bit in the middle of a file of weights."""
    name = next(name for name in os.listdir(path) if name.startswith("dense"))
    with open(os.path.join(path, name), "r+b") as file:
        file.seek(os.path.getsize(file.name) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


@case
def wrong_paths() -> None:
    with scratch() as folder:
        file = os.path.join(folder, "file")
        open(file, "w").close()
        for tool in TOOLS:
            for path, words in (
                (file, "Not a directory"),
                (folder, "no complete checkpoint"),
                (os.path.join(folder, "none"), "no such folder"),
            ):
                out = run(["-m", f"fmoe.tools.{tool}", path])
                assert out.returncode == 1 and out.stdout == "", out
                assert out.stderr.startswith(f"{tool}: {path}: ") and words in out.stderr, (
                    out.stderr
                )
                assert out.stderr.count("\n") == 1, out.stderr


@case
def closed_pipe() -> None:
    with scratch() as folder:
        root = saved(folder).root
        for arguments in (["inspect", "--arrays", root], ["verify", root]):
            command = [TRAIN, "-m", "fmoe.tools." + arguments[0], *arguments[1:]]
            tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            tool.stdout.close()  # who was to read is gone already
            assert tool.stderr.read() == b""
            assert tool.wait(60) == 1


@case
def a_flipped_bit() -> None:
    for compression in (0, 4):
        with scratch() as folder:
            ckpt = saved(folder, compression)
            flip_data(ckpt.path(1))
            out = run(["-m", "fmoe.tools.verify", ckpt.root])
            assert out.returncode == 1, out
            bad, good = out.stdout.splitlines()
            assert bad.startswith("BAD") and good == f"good  {ckpt.path(2)}", out.stdout
            assert "dataset" in bad and "its checksum does not match" in bad, bad
            assert "no reason" not in bad and "truncated" not in bad, bad


@case
def merge_and_diff() -> None:
    """What merge writes is the same arrays and state; diff says what is not, and how far."""
    with scratch() as folder:
        ckpt = saved(folder)
        made = os.path.join(folder, "merged")
        out = run(["-m", "fmoe.tools.merge", ckpt.root, made])
        assert out.returncode == 0 and "step_00000002" in out.stdout, out
        assert "dense-pp00-tp00.h5, expert-pp00-ep00-etp00.h5, manifest.json" in out.stdout
        merged = os.path.join(made, "step_00000002")
        assert run(["-m", "fmoe.tools.verify", made]).stdout == f"good  {merged}\n"
        out = run(["-m", "fmoe.tools.diff", ckpt.path(2), merged])
        assert out.returncode == 0 and out.stdout == "", out
        again = run(["-m", "fmoe.tools.merge", ckpt.path(2), made])
        assert again.returncode == 1 and "there is already step 2" in again.stderr, again
        out = run(["-m", "fmoe.tools.diff", ckpt.path(1), ckpt.path(2)])
        assert out.returncode == 1 and out.stdout == "state: step is 1 in A, 2 in B\n", out
        out = run(["-m", "fmoe.tools.diff", "--arrays-only", ckpt.path(1), merged])
        assert out.returncode == 0 and out.stdout == "", out


@case
def diff_says_how_far() -> None:
    with scratch() as folder:
        m = small.model()
        opt = fmoe.AdamW(m, lr=0.01)
        weight = dict(m.named_parameters())["norm.weight"]
        stores = []
        for name, value in (("a", 1.0), ("b", 1.5)):
            weight.copy_([value] + [1.0] * 15)
            store = fmoe.Checkpointer(os.path.join(folder, name), asynchronous=False)
            store.save(1, model=m, optimizer=opt if name == "b" else None)
            stores.append(store)
        out = run(["-m", "fmoe.tools.diff", stores[0].path(1), stores[1].root])
        assert out.returncode == 1, out
        lines = out.stdout.splitlines()
        # sqrt(0.25 / (15 + 2.25))
        assert "norm.weight: 1 elements, largest difference 0.5, relative 0.12" in lines, lines
        assert "adamw.m/norm.weight: only in B" in lines and len(lines) > 20, lines
        assert any(line.startswith("state: optimizer is null in A") for line in lines), lines
        within = ["-m", "fmoe.tools.diff", "--arrays-only", "--tolerance", "0.13"]
        out = run([*within, stores[0].path(1), stores[1].path(1)])
        assert out.returncode == 1 and "norm.weight: 1 elements" not in out.stdout, out
        wide = fmoe.Checkpointer(os.path.join(folder, "wide"), asynchronous=False)
        wide.save(1, model=small.model(d_model=32))
        out = run([*within, stores[0].root, wide.root])
        assert "norm.weight: 16 in A, 32 in B" in out.stdout.splitlines(), out
        wide.save(2, model=m)
        out = run([*within, stores[0].root, wide.root])
        assert out.stdout.splitlines()[0] == "step_00000002: only in B", out
        out = run([*within, stores[0].root, os.path.join(folder, "none")])
        assert out.returncode == 2 and out.stderr.startswith("diff: ") and not out.stdout, out


@case
def help_is_there() -> None:
    for tool in ("inspect", "verify", "merge", "diff"):
        out = run(["-m", f"fmoe.tools.{tool}", "--help"])
        assert out.returncode == 0 and f"train -m fmoe.tools.{tool}" in out.stdout, out


@case
def one_bad_among_good_ones() -> None:
    with scratch() as folder:
        ckpt = saved(folder)
        shutil.copyfile(
            os.path.join(ckpt.path(1), "manifest.json"), os.path.join(ckpt.path(1), "state.h5")
        )
        out = run(["-m", "fmoe.tools.inspect", ckpt.root])
        assert out.returncode == 1 and out.stderr == "", out.stderr
        assert "BAD          " + ckpt.path(1) in out.stdout and "step         2" in out.stdout


main()
