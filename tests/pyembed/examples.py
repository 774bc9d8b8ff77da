"""examples/: what they say, refuse and leave out; how they end."""

import json
import os
import signal
import subprocess

import small
from harness import TRAIN, case, main, run, scratch

import fmoe

TOP = os.path.dirname(os.path.dirname(small.FOLDER))
PRETRAIN = os.path.join(TOP, "examples", "pretrain_gpt.py")
QUICKSTART = os.path.join(TOP, "examples", "quickstart.py")
TINY = "--n-layer 2 --d-model 16 --n-head 2 --seq-len 16 --batch-size 4".split()
TINY += ["--steps", "3", "--valid", "0.1"]


def pretrain(folder: str, *arguments: str, code: int = 0, **options):
    data = [] if "--data" in arguments else ["--data", small.write_text(folder)]
    out = run([PRETRAIN, *data, *TINY, *arguments], cwd=folder, **options)
    assert out.returncode == code, f"{out.returncode}:\n{out.stdout}{out.stderr}"
    return out


def refused(folder: str, arguments: str, *words: str) -> None:
    lines = pretrain(folder, *arguments.split(), code=2).stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("usage: pretrain_gpt.py"), lines
    missing = [word for word in words if word not in lines[1]]
    assert not missing, f"{arguments}: {missing} are not in: {lines[1]}"


@case
def options_that_would_do_nothing_are_refused() -> None:
    with scratch() as folder:
        for option in (
            "--gate switch",
            "--gate gshard",  # the default, but somebody wants it
            "--capacity-factor 1.0",
            "--moe-activation swiglu",
            "--every 1",
            "--top-k 1",
            "--renormalize",
        ):
            refused(folder, option, option.split()[0], "--num-experts")
        refused(folder, "--save-every 5", "--save-every", "--out")
        refused(folder, "--keep-last 5", "--keep-last", "--out")
        refused(folder, "--eval-every 5 --valid 0", "--eval-every", "--valid")
        refused(folder, "--pattern *.txt", "--pattern", "folder")
        refused(folder, "--exclude *.txt", "--exclude", "folder")
        refused(folder, "--vocab-size 300 --sample hi", "--sample", "256", "300")
        refused(folder, "--steps 0", "--steps", "'0'", "1 and more")
        refused(folder, "--save-every -1 --out run", "--save-every", "'-1'")
        refused(folder, "--norm layer", "--norm", "rmsnorm")
        zero = pretrain(folder, "--num-experts", "4", "--moe-d-hidden", "0", code=1)
        assert "MoE: d_hidden=0 is not allowed" in zero.stderr, zero.stderr


@case
def the_first_lines_say_what_runs() -> None:
    with scratch() as folder:
        dense = pretrain(folder).stdout
        assert "2 layers, dense; " in dense, dense
        assert "in 1 file, " in dense and "Nothing will be saved" in dense, dense
        experts = pretrain(folder, *"--num-experts 4 --gate switch --n-layer 4 --out run".split())
        assert "4 layers, of which 1, 3: 4 experts, gate switch, top 1; " in experts.stdout
        assert "Nothing will be saved" not in experts.stdout
        names = pretrain(folder, "--num-experts", "4", "--every", "0,1").stdout
        assert "2 layers, of which 0, 1: 4 experts, gate gshard, top 2; " in names, names


@case
def help_shows_choices_and_defaults() -> None:
    text = " ".join(run([PRETRAIN, "--help"]).stdout.split())
    for words in (
        "--activation {none,gelu,gelu_erf,relu,relu2,silu,swiglu,geglu}",
        "--norm {layernorm,rmsnorm}",
        "--capacity-scope {global,sequence,rank}",
        "--steps STEPS optimiser steps in all (default: 1000)",
        "sequences of a step (default: 16)",
        "--n-layer N_LAYER",
        "(default: True)",
    ):
        assert words in text, f"{words!r} is not in\n{text}"
    assert "(default: True) (default" not in text and "None)" not in text


@case
def a_folder_and_a_home() -> None:
    with scratch() as folder:
        os.mkdir(os.path.join(folder, "texts"))
        for name in ("a.txt", "b.txt", "c.md"):
            with open(os.path.join(folder, "texts", name), "w", encoding="ascii") as out:
                out.write(f"{name} " * 1000)
        env = {**os.environ, "HOME": folder}
        chosen = ["--data", "~/texts", "--pattern", "*.txt", "--exclude", "b*"]
        out = pretrain(folder, *chosen, "--out", "~/run", env=env).stdout
        assert "in 1 file, " in out, out
        assert os.path.isdir(os.path.join(folder, "run", "step_00000003"))
        assert os.path.isfile(os.path.join(folder, "run", "metrics.jsonl"))
        out = pretrain(folder, "--data", "~/texts", env=env).stdout
        assert "in 3 files, " in out, out


def stopped(script: str, arguments: list[str], number: int) -> str:
    """The output of a run that got the signal after its first line of steps; its exit status is
    checked."""
    process = subprocess.Popen(
        [TRAIN, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("step "):
            process.send_signal(number)
            break
    text += process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, f"{process.returncode}:\n{text}"
    return text


@case
def exit_status_of_a_signal() -> None:
    with scratch() as folder:
        run_of = [*TINY, "--data", small.write_text(folder), "--steps", "1000000"]
        text = stopped(PRETRAIN, run_of, signal.SIGTERM)
        assert "stopped by SIGTERM" in text and "Nothing was saved." in text, text
        text = stopped(PRETRAIN, [*run_of, "--out", os.path.join(folder, "run")], signal.SIGINT)
        assert "Run the same command again to go on." in text, text
        # The standard library, and not what is installed there; its steps are long ones.
        out = os.path.join(folder, "quick")
        text = stopped(QUICKSTART, ["--out", out], signal.SIGINT)
        assert "Run the same command again to go on." in text and "saved " + out in text, text


@case
def the_quickstart_says_how_to_go_on() -> None:
    with scratch() as folder:
        out = run([QUICKSTART, "--steps", "1", "--out", "run"], cwd=folder)
        assert out.returncode == 0, out.stderr
        command = out.stdout.splitlines()[-1]
        assert command == "    bazel run //:train -- -m fmoe.tools.inspect run", command
        inspected = run(command.split(" -- ")[1].split(), cwd=folder)
        assert inspected.returncode == 0, inspected.stderr
        refusal = run([QUICKSTART, "--steps", "0"], cwd=folder)
        assert refusal.returncode == 2 and "--steps 0 is not allowed" in refusal.stderr


@case
def installed_packages_are_no_data() -> None:
    """Of both examples: a pyenv's or conda's site-packages lie in the standard library's folder."""
    with scratch() as folder:
        library = os.path.join(folder, "library")
        for name in ("site-packages", "dist-packages", "json"):
            os.makedirs(os.path.join(library, name))
            with open(os.path.join(library, name, "x.py"), "w", encoding="ascii") as out:
                out.write(f"# {name}\n" * 9000)
        identities = set()
        for script, more in ((PRETRAIN, TINY), (QUICKSTART, ["--steps", "1"])):
            name = os.path.basename(script)
            start = (
                f"import os, runpy, sys; os.__file__ = {library!r} + '/os.py'; "
                f"sys.argv = [{script!r}, *sys.argv[1:]]; "
                f"runpy.run_path({script!r}, run_name='__main__')"
            )
            out = run(["-c", start, *more, "--out", name], cwd=folder)
            assert out.returncode == 0, out.stderr
            assert "in 1 file, " in out.stdout, out.stdout
            (saved,) = (n for n in os.listdir(os.path.join(folder, name)) if n.startswith("step_"))
            info = fmoe.checkpoint_info(os.path.join(folder, name, saved))
            identities.add(info["state"]["loader"]["identity"])
        alone = fmoe.ByteDataset(os.path.join(library), pattern="*.py", exclude="*-packages")
        assert identities == {alone.identity}


@case
def metrics_without_a_folder() -> None:
    with scratch() as folder:
        pretrain(folder, "--metrics", "m.jsonl")
        with open(os.path.join(folder, "m.jsonl"), encoding="utf-8") as lines:
            steps = [json.loads(line)["step"] for line in lines]
        assert steps[:3] == [1, 2, 3]


main()
