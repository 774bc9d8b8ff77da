"""What the ranks send in a step, against the formulas of docs/scaling.md."""

from typing import Any

import multirank
from multirank import case

import fmoe

WORLD = fmoe.world_size()
SEQ_LEN, ROWS = 16, 2
ALIGN = 16  # elements: every parameter begins at a multiple of it


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def sent(mesh: fmoe.Mesh) -> dict[tuple[str, str], dict[str, Any]]:
    """Of the last step, by group and kind."""
    return {(row["group"], row["kind"]): row for row in mesh.comm_stats(reset=True)}


def step_of(mesh: fmoe.Mesh, **options: Any) -> tuple[fmoe.GPT, dict[tuple[str, str], Any]]:
    """A model, and what its second step sent."""
    fmoe.manual_seed(3)
    model = fmoe.GPT(
        vocab_size=64, n_layer=2, d_model=16, n_head=2, seq_len=SEQ_LEN, mesh=mesh, **options
    )
    optimizer = fmoe.AdamW(model, lr=1e-3)
    tokens = [[(7 * i + j * j + fmoe.rank()) % 64 for j in range(SEQ_LEN)] for i in range(ROWS)]
    for _ in range(2):
        mesh.comm_stats(reset=True)
        model(tokens, tokens).loss.backward()
        optimizer.step()
    return model, sent(mesh)


def flat_numel(parameters: list[Any], ranks: int) -> int:
    """Elements of a group of replicas in the flat buffers."""
    return round_up(sum(round_up(len_of(p), ALIGN) for p in parameters), ALIGN * ranks)


def len_of(parameter: Any) -> int:
    n = 1
    for side in parameter.shape:
        n *= side
    return n


@case
def data_parallel_sharded() -> None:
    mesh = fmoe.Mesh(zero=1)
    model, rows = step_of(mesh)
    n = flat_numel([p for _, p in model.named_parameters()], WORLD)
    for kind in ("reduce_scatter", "all_gather"):
        row = rows["stage", kind]
        assert row["bytes"] == 4 * n * (WORLD - 1) // WORLD, (kind, row, n)
        assert row["ranks"] == WORLD and row["calls"] >= 1 and row["waited"] >= 0
    assert ("stage", "all_reduce") not in rows, rows
    # the norm, the loss, whether to stop, what is trained: five doubles to each other rank
    assert rows["world", "all_gather"]["bytes"] == 5 * 8 * (WORLD - 1)
    assert rows["dp", "all_reduce"]["bytes"] == 8 * (2 * (WORLD - 1) // WORLD)


@case
def data_parallel_whole() -> None:
    mesh = fmoe.Mesh(zero=0)
    model, rows = step_of(mesh)
    n = flat_numel([p for _, p in model.named_parameters()], WORLD)
    assert rows["stage", "all_reduce"]["bytes"] == 4 * (2 * n * (WORLD - 1) // WORLD)
    assert ("stage", "reduce_scatter") not in rows, rows


@case
def weights_travel_in_their_dtype() -> None:
    mesh = fmoe.Mesh(zero=1)
    model, rows = step_of(mesh, dtype="bfloat16")
    n = flat_numel([p for _, p in model.named_parameters()], WORLD)
    assert rows["stage", "reduce_scatter"]["bytes"] == 4 * n * (WORLD - 1) // WORLD
    assert rows["stage", "all_gather"]["bytes"] == 2 * n * (WORLD - 1) // WORLD


@case
def counting_begins_anew() -> None:
    mesh = fmoe.Mesh(zero=1)
    x = fmoe.tensor([1.0] * 100)
    mesh.comm_stats(reset=True)
    fmoe.all_reduce(x, mesh=mesh, group="world")
    before = sent(mesh)["world", "all_reduce"]
    assert (before["calls"], before["bytes"]) == (1, 4 * (200 * (WORLD - 1) // WORLD)), before
    assert mesh.comm_stats() == []
    assert fmoe.Mesh(tp=WORLD).comm_stats() == [], "another mesh has groups of its own"


multirank.main()
