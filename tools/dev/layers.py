"""Who may include whom, as a table, checked on the #include lines.

A room includes itself and the rooms below it. A library of the host belongs to the
rooms that wrap it. tests/ and bench/ may include anything.
"""

import re
from pathlib import Path

ROOMS = {
    "tensor": set(),
    "parallel": {"tensor"},
    "fmoe": {"tensor", "parallel"},
    "model": {"tensor", "parallel", "fmoe"},
    "io": {"tensor", "parallel"},  # tensors and placements, never a model
    "pyembed": {"tensor", "parallel", "fmoe", "model", "io"},
}

# Header of a library -> (the rooms that may include it, whose job it is).
LIBRARIES = {
    r"Python\.h|numpy/.*|structmember\.h": ({"pyembed"}, "nothing below pyembed/ knows Python"),
    r"hdf5(_hl)?\.h|H5.*\.h": ({"io"}, "only io/ knows HDF5"),
    r"mpi\.h": ({"parallel"}, "only parallel/ knows MPI"),
    r"nccl\.h": ({"parallel", "tensor"}, "NCCL is a matter of parallel/ and the CUDA plugin"),
    r"cblas\.h|(oneapi/)?dnnl.*\.h": ({"tensor"}, "matrix products are a matter of tensor/cpu/"),
    r"cuda.*\.h|cublas.*\.h": ({"tensor", "parallel"}, "CUDA is a matter of the plugin"),
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def violations(path: str, text: str) -> list[str]:
    """One message for each include of the file `path` that the table forbids."""
    room = path.split("/")[0]
    if room not in ROOMS:
        return []
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, header = match.groups()
        where = f"{path}:{number}: includes {header}"
        if quote == "<":
            for pattern, (allowed, why) in LIBRARIES.items():
                if re.fullmatch(pattern, header) and room not in allowed:
                    found.append(f"{where}: {why}")
            continue
        other = header.split("/")[0]
        if "/" not in header or other == "..":
            found.append(f"{where}: write the path from the top of the tree")
        elif other in ROOMS and other != room and other not in ROOMS[room]:
            may = ", ".join(sorted(ROOMS[room])) or "no other room"
            found.append(f"{where}: {room}/ may include {may}")
        elif other in ("tests", "bench"):
            found.append(f"{where}: only tests and benchmarks include those")
    return found


def check(root: Path, names: list[str]) -> list[str]:
    found = []
    for name in names:
        if name.endswith((".c", ".h", ".cu", ".cuh")):
            found += violations(name, (root / name).read_text(errors="replace"))
    return found
