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
