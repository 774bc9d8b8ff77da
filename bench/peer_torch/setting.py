"""One way to run the model, among which the search picks."""

import dataclasses
import json
import os

import mkl

# "keep": freed memory stays in the process; large tensors otherwise go back to the kernel at every
# step and are faulted in again.
MEMORY = {
    "default": {},
    "keep": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
    "huge_pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}
CORES = {"free": {}, "bound": {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}}


@dataclasses.dataclass(frozen=True)
class Setting:
    compile: str = "off"  # or a mode of torch.compile
    experts: str | None = None  # a form in moe.py
    memory: str = "default"  # environment of the process: a key of MEMORY
    cores: str = "free"  # environment likewise: a key of CORES
    attention: str = "flash"  # or "math": the form of scaled_dot_product_attention
    bf16: str = "autocast"  # or "weights": bfloat16 weights with float32 masters; fp32 ignores it
    mkl: str = "shipped"  # or "avx512": see mkl.py

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        return cls(**json.loads(text))

    def environment(self, threads: int) -> dict[str, str]:
        """What the process must be started with."""
        variables = {**os.environ, **MEMORY[self.memory], **CORES[self.cores]}
        variables["OMP_NUM_THREADS"] = str(threads)
        if self.mkl == "avx512":
            before = variables.get("LD_PRELOAD", "")
            variables["LD_PRELOAD"] = f"{mkl.library()} {before}".strip()
        return variables
