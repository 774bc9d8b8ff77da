"""./dev compdb [BAZEL OPTIONS]: compile_commands.json for clangd and clang-tidy.

Nothing is built, yet a build should have run once, so that generated headers and the
host's repositories are there.
"""

import json

from dev.common import BAZEL_OPTIONS, ROOT, bazel_output

GCC_ONLY = {
    "-fno-canonical-system-headers",
    "-Wno-free-nonheap-object",
    "-Wunused-but-set-parameter",
}


def entries(options: list[str]) -> list[dict]:
    execroot = bazel_output("info", "execution_root", *options).strip()
    query = 'mnemonic("CppCompile|CudaCompile", //...)'
    graph = json.loads(bazel_output("aquery", "--output=jsonproto", *options, query))
    seen: dict[str, dict] = {}
    for action in graph.get("actions", []):
        arguments = action["arguments"]
        if action["mnemonic"] == "CudaCompile":
            # What stands before -x belongs to bazel/nvcc_action.sh.
            arguments = ["nvcc", *arguments[arguments.index("-x") :]]
        source = arguments[arguments.index("-c") + 1]
        if source.startswith(("external/", "bazel-out/")):
            continue
        # One entry a file: the first. Another would be the same for another instruction set.
        seen.setdefault(
            source,
            {
                "directory": execroot,
                "file": str(ROOT / source),
                "arguments": [a for a in arguments if a not in GCC_ONLY],
            },
        )
    return [seen[source] for source in sorted(seen)]


def write(options: list[str]) -> list[dict]:
    """Writes the file; returns its entries."""
    found = entries([*BAZEL_OPTIONS, *options])
    out = ROOT / "compile_commands.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{out.name}: {len(found)} files")
    return found


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    write(argv)
    return 0
