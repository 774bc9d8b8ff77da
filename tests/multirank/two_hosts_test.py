"""Two network namespaces as two hosts, mpirun between them over real TCP: a training run there
gives the losses of one rank.

Each host is a process with a network and a host name of its own; a pair of virtual interfaces
joins them. Where mpirun would call ssh, a script enters the other one's namespaces. Needs the right
to make namespaces; skipped, with the reason, where that is refused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[2] / "tools"))

import cases

ROOT = Path(__file__).absolute().parents[2]
SCRIPT = Path(__file__).absolute().parent / "two_hosts.py"
INSIDE = "FMOE_TEST_INSIDE_NAMESPACE"
HOSTS = {"fmoe-a": "10.77.19.1", "fmoe-b": "10.77.19.2"}
PATIENCE = 150.0


def program(name: str, built: str) -> str:
    """In the runfiles of the test, or in the tree, where it was built."""
    path = ROOT / name
    return str(path if path.is_file() else ROOT / "bazel-bin" / built)


def enter_user_namespace() -> None:
    """Who is not root may make networks in a user namespace of his own, where that is allowed."""
    if os.geteuid() == 0 or INSIDE in os.environ:
        return
    unshare = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class Refused(Exception):
    """What the system does not let us do, in its words."""


class Host:
    """A process that does nothing but hold a host's namespaces."""

    def __init__(self, name: str) -> None:
        self.name, self.address = name, HOSTS[name]
        self.process = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--uts",
                "sh",
                "-c",
                f"hostname {name} && echo up && exec sleep 600",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Until it is up."""
        assert self.process.stdout is not None and self.process.stderr is not None
        if self.process.stdout.readline() != "up\n":
            raise Refused(self.process.stderr.read().strip())

    def inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.process.pid), "--net", "--uts"]

    def ip(self, *arguments: str) -> None:
        run([*self.inside(), "ip", *arguments])

    def received(self) -> int:
        """Bytes that came over the wire."""
        text = run([*self.inside(), "cat", "/proc/self/net/dev"])
        return int(re.findall(r"^\s*wire:\s*(\d+)", text, re.MULTILINE)[0])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class TwoHosts(unittest.TestCase):
    def setUp(self) -> None:
        for tool in ("ip", "unshare", "nsenter"):
            if shutil.which(tool) is None:
                self.skipTest(f"{tool} is not installed")
        # A short name: sockets lie in it.
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
        self.folder = tempfile.mkdtemp(prefix="fmoe.", dir=shm)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.hosts: list[Host] = []
        try:
            self.make_hosts()
        except Refused as error:
            self.skipTest(f"namespaces are not permitted: {error}")
        with open(os.path.join(self.folder, "text.txt"), "w", encoding="ascii") as out:
            out.writelines(f"line {i}: {i * i % 97} and so on\n" for i in range(2000))
        with open(os.path.join(self.folder, "hosts"), "w", encoding="ascii") as out:
            out.writelines(f"{address} slots=2\n" for address in HOSTS.values())
        # In place of ssh: HOST COMMAND...
        agent = os.path.join(self.folder, "agent")
        with open(agent, "w", encoding="ascii") as out:
            out.write(f'#!/bin/sh\nshift\nexec {" ".join(self.hosts[1].inside())} sh -c "$*"\n')
        os.chmod(agent, 0o700)
        self.agent = agent

    def make_hosts(self) -> None:
        for name in HOSTS:
            self.hosts.append(Host(name))
            self.addCleanup(self.hosts[-1].end)
            self.hosts[-1].wait()
        ends = [["name", "wire", "netns", str(host.process.pid)] for host in self.hosts]
        run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]])
        for host in self.hosts:
            host.ip("address", "add", f"{host.address}/24", "dev", "wire")
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", "wire", "up")

    def train(self, command: list[str]) -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
        done = subprocess.run(
            [*command, program("train", "train"), "--device", "cpu", str(SCRIPT), self.folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env=env,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def mpirun(self) -> list[str]:
        """Two ranks on each host; nothing but TCP between them."""
        network = "10.77.19.0/24"
        options = {
            "plm_rsh_agent": self.agent,
            "orte_tmpdir_base": self.folder,
            "btl": "tcp,self",
            "btl_tcp_if_include": network,
            "oob_tcp_if_include": network,
        }
        command = [*self.hosts[0].inside(), program("bazel/mpirun_host", "bazel/mpirun_host")]
        command += ["-n", "4", "--hostfile", os.path.join(self.folder, "hosts")]
        for name, value in options.items():
            command += ["--mca", name, value]
        return command

    def test_losses_are_those_of_one_rank(self) -> None:
        def losses(text: str) -> list[float]:
            return [float.fromhex(x) for x in re.findall(r"^step \d+ loss (\S+)$", text, re.M)]

        alone = losses(self.train([]))
        before = self.hosts[1].received()
        text = self.train(self.mpirun())
        moved = self.hosts[1].received() - before
        print(text, f"{moved / 1e6:.1f} MB came to {self.hosts[1].name}", sep="")
        for rank in range(4):
            on = self.hosts[rank // 2].name
            self.assertIn(f"rank {rank} of 4 is on {on}\n", text)
        self.assertEqual(len(alone), 10)
        for step, (a, b) in enumerate(zip(alone, losses(text), strict=True)):
            self.assertLess(abs(a - b), 1e-4, f"step {step + 1}: {a} alone, {b} on two hosts")
        # Five sums of 4 MiB: a ring brings 1.5 times that to each rank, one in two over the wire.
        self.assertGreater(moved, 5 * (4 << 20))


enter_user_namespace()
cases.main()
