"""Runs bench/scaling_rank.py as a job of some ranks, for the benchmarks beside it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENT = {  # a rank that waits gives the processor away; containers run as root
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


class Job:
    """`ranks` processes of one thread each; they run until `result()`."""

    def __init__(
        self, train: str, ranks: int, job: dict[str, Any], throttle: str | None = None
    ) -> None:
        command = [train, os.path.join(HERE, "scaling_rank.py"), json.dumps(job)]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *command]
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        environment.pop("FMOE_THROTTLE", None)
        if throttle:
            environment["FMOE_THROTTLE"] = throttle
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def result(self) -> dict[str, Any]:
        output = self.process.communicate()[0]
        for line in output.splitlines():
            if line.startswith("RESULT "):
                return json.loads(line[7:])
        raise SystemExit(f"a job ended with status {self.process.returncode}:\n{output}")


def run(train: str, ranks: int, job: dict[str, Any], throttle: str | None = None) -> dict[str, Any]:
    return Job(train, ranks, job, throttle).result()


def link(train: str) -> tuple[float, float]:
    """Seconds of latency and bytes a second between two ranks here."""
    latency, bandwidth = run(train, 2, {"link": True})["link"]
    return latency, bandwidth


def machine() -> str:
    """The processor, and what else ran: for the head of a table."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
                break
    loads = " ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{os.cpu_count()} processors ({model}), load averages {loads}"


def others() -> list[str]:
    """Processes that use more than a tenth of a processor, the heaviest first."""
    listed = subprocess.run(
        ["ps", "-eo", "pcpu,comm", "--sort=-pcpu", "--no-headers"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    rows = [line.split(None, 1) for line in listed]
    return [f"{name} {share}%" for share, name in rows if float(share) > 10][:8]
