"""The program: options, exit codes, tracebacks, arguments, as python's."""

import os
import sys

from harness import TRAIN, case, main, run, scratch


def script(folder: str, text: str) -> str:
    path = os.path.join(folder, "script.py")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    return path


@case
def arguments_and_path() -> None:
    with scratch() as folder:
        path = script(folder, "import sys, os\nprint(sys.argv, __name__, os.getcwd(), sys.path[0])")
        out = run([path, "--device", "x", "-c"], cwd=folder)
        assert out.returncode == 0, out.stderr
        assert "'--device', 'x', '-c'] __main__" in out.stdout, out.stdout
        assert out.stdout.split()[-1] == os.path.realpath(folder) or folder in out.stdout


@case
def code_and_module() -> None:
    out = run(["-c", "import sys; print(sys.argv)", "a", "-m"])
    assert out.stdout == "['-c', 'a', '-m']\n", out.stdout
    with scratch() as folder:
        script(folder, "import sys; print(sys.argv[1:], __name__)")
        out = run(["-m", "script", "b"], cwd=folder)
        assert out.stdout == "['b'] __main__\n", out.stdout + out.stderr


@case
def standard_input() -> None:
    out = run(["-", "a"], input="import sys; print(sys.argv, __name__)")
    assert out.stdout == "['-', 'a'] __main__\n", out.stdout + out.stderr


@case
def exit_codes() -> None:
    assert run(["-c", "raise SystemExit(7)"]).returncode == 7
    failed = run(["-c", "1/0"])
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr
    assert "Traceback" in failed.stderr
    assert run([]).returncode == 2
    unknown = run(["--devise"])
    assert unknown.returncode == 2 and "--devise" in unknown.stderr
    assert run(["/no/such/script.py"]).returncode == 2


@case
def errors_have_tracebacks() -> None:
    with scratch() as folder:
        path = script(folder, "import fmoe\n\n\ndef f():\n    fmoe.tensor('x')\n\n\nf()\n")
        out = run([path])
        assert out.returncode == 1
        assert f'File "{path}", line 5, in f' in out.stderr, out.stderr
        assert "TypeError: tensor: array is a str" in out.stderr


@case
def version_info_and_help() -> None:
    version = run(["--version"])
    assert version.returncode == 0 and "fmoe 0." in version.stdout and "Python 3." in version.stdout
    info = run(["--device", "cpu", "--info"])
    assert info.returncode == 0, info.stderr
    for word in ("device", "cpu", "threads", "products", "HDF5", "Python", "package"):
        assert word in info.stdout, f"{word} is not in\n{info.stdout}"
    assert "package    missing" not in info.stdout
    assert "usage: train" in run(["--help"]).stdout


@case
def devices() -> None:
    out = run(["--device", "cpu", "-c", "import fmoe; print(fmoe.device())"])
    assert out.stdout == "cpu\n", out.stderr
    out = run(["--device=tpu", "-c", "pass"])
    assert out.returncode == 1 and "tpu" in out.stderr and "cpu" in out.stderr
    chosen = run(["-c", "import fmoe; fmoe.set_device('cpu'); print(fmoe.device())"])
    assert chosen.stdout == "cpu\n", chosen.stderr
    late = run(["--device", "cpu", "-c", "import fmoe; fmoe.set_device('cuda')"])
    assert late.returncode == 1 and "too late" in late.stderr


@case
def threads() -> None:
    code = "import fmoe; print(fmoe.device_info()['threads'])"
    env = {**os.environ, "OMP_NUM_THREADS": "3"}
    assert run(["-c", code], env=env).stdout == "3\n"
    del env["OMP_NUM_THREADS"]
    cores = int(run(["-c", code], env=env).stdout)
    assert 1 <= cores <= len(os.sched_getaffinity(0))


@case
def a_launcher_of_another_mpi() -> None:
    """Each of its processes would take itself for the only one."""
    env = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    out = run(["-c", "print('ran')"], env=env)
    assert out.returncode == 1 and "ran" not in out.stdout, out
    if "MPI: none" in run(["--version"]).stdout:
        assert "built without MPI" in out.stderr, out.stderr
    else:
        assert "rank 0 of 2 (OMPI_COMM_WORLD_SIZE)" in out.stderr, out.stderr
        assert "do not belong together" in out.stderr, out.stderr


@case
def one_rank_needs_no_mpi() -> None:
    env = {**os.environ, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    out = run(["-c", "import fmoe; print(fmoe.rank(), fmoe.world_size())"], env=env)
    assert out.returncode == 0 and out.stdout == "0 1\n", out


@case
def working_directory_of_bazel_run() -> None:
    with scratch() as folder:
        env = {**os.environ, "BUILD_WORKING_DIRECTORY": folder}
        out = run(
            ["-c", "import os; print(os.getcwd(), 'BUILD_WORKING_DIRECTORY' in os.environ)"],
            env=env,
        )
        assert out.stdout == f"{os.path.realpath(folder)} False\n", out.stdout


@case
def virtual_environment() -> None:
    with scratch() as folder:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = os.path.join(folder, "lib", version, "site-packages")
        os.makedirs(packages)
        os.makedirs(os.path.join(folder, "bin"))
        os.symlink(os.path.realpath(sys.executable), os.path.join(folder, "bin", "python3"))
        with open(os.path.join(folder, "pyvenv.cfg"), "w", encoding="utf-8") as out:
            out.write(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
        with open(os.path.join(packages, "only_here.py"), "w", encoding="utf-8") as out:
            out.write("where = 'venv'\n")
        env = {**os.environ, "VIRTUAL_ENV": folder}
        result = run(["-c", "import only_here, fmoe; print(only_here.where)"], env=env)
        assert result.stdout == "venv\n", result.stderr
        env["VIRTUAL_ENV"] = "/nowhere"
        result = run(["-c", "print(1)"], env=env)
        assert result.stdout == "1\n" and "/nowhere is not used" in result.stderr


@case
def child_processes() -> None:
    text = """
import multiprocessing, os, fmoe
def tokens(n):
    return fmoe.ByteDataset(__file__).read(0, n).tolist()
if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.map(tokens, [2, 3]))
"""
    # Python hands such settings to children as options, too.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "default"}
    with scratch() as folder:
        out = run([script(folder, text)], env=env, timeout=50)
        want = "".join(
            f"{method} [[10, 105], [10, 105, 109]]\n" for method in ("spawn", "forkserver", "fork")
        )
        assert out.stdout == want, out.stdout + out.stderr


@case
def plain_python_says_what_to_do() -> None:
    import subprocess

    import fmoe

    package = os.path.dirname(os.path.dirname(fmoe.__file__))
    out = subprocess.run(
        [sys.executable, "-c", "import fmoe"],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 1 and "train script.py" in out.stderr, out.stderr


assert os.access(TRAIN, os.X_OK)
main()
