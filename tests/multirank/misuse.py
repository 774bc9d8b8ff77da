"""What would go wrong without a word where ranks differ, or a step is not finished."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

from multirank import case, gather, main

import fmoe

RANK, WORLD = fmoe.rank(), fmoe.world_size()
TOKENS = [[(7 * i + j * j) % 50 for j in range(17)] for i in range(4)]


def gpt(mesh: fmoe.Mesh | None = None, n_layer: int = 1, seed: int = 1) -> fmoe.GPT:
    fmoe.manual_seed(seed)
    return fmoe.GPT(vocab_size=64, n_layer=n_layer, d_model=16, n_head=4, seq_len=16, mesh=mesh)


def backward(model: Any, mesh: fmoe.Mesh) -> None:
    rows = len(TOKENS) // mesh.dp
    own = TOKENS[mesh.dp_rank * rows : (mesh.dp_rank + 1) * rows]
    model([row[:-1] for row in own], [row[1:] for row in own]).loss.backward()


def raises(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    try:
        call()
    except kind as error:
        assert all(word in str(error) for word in words), error
        return
    raise AssertionError(f"no {kind.__name__}")


class Wrapped(fmoe.Module):
    def __init__(self, part: fmoe.GPT, more: fmoe.Parameter | None = None) -> None:
        self.part = part
        if more is not None:
            self.more = more

    def forward(self, tokens: Any, targets: Any) -> Any:
        return self.part(tokens, targets)


@case
def a_model_inside_a_module() -> None:
    """Its gradients are those of the model by itself, on every mesh."""
    norms = []
    for tp in (1, WORLD):
        mesh = fmoe.Mesh(tp=tp)
        for model in (gpt(mesh), Wrapped(gpt(mesh))):
            optimizer = fmoe.SGD(model, lr=0.1)
            backward(model, mesh)
            norms.append(optimizer.step().grad_norm)
    assert max(norms) - min(norms) < 1e-4 * norms[0], norms


@case
def parts_of_different_meshes() -> None:
    model = gpt(fmoe.Mesh(tp=WORLD))
    parameter = fmoe.Parameter([3])
    raises(ValueError, lambda: fmoe.SGD(Wrapped(model, parameter), lr=0.1), "tp", "dp")


@case
def a_step_that_is_not_finished() -> None:
    """zero_grad() forgets it; so does the optimiser's end, and the script's."""
    mesh, infos = fmoe.Mesh(), []
    for forget in (False, True):
        model = gpt()
        optimizer = fmoe.SGD(model, lr=0.1)
        if forget:
            backward(model, mesh)
            optimizer.zero_grad()
        backward(model, mesh)
        infos.append(optimizer.step())
        backward(model, mesh)
    assert infos[0].grad_norm == infos[1].grad_norm, infos
    del optimizer
    kept.append((model, fmoe.AdamW(model, lr=0.1)))
    backward(model, mesh)


kept: list[Any] = []  # with a reduction under way at the end of the script


@case
def other_models_and_seeds() -> None:
    model = gpt(n_layer=1 + RANK)
    raises(ValueError, lambda: fmoe.SGD(model, lr=0.1), "models differ")
    seeded = gpt(seed=RANK)
    raises(ValueError, lambda: fmoe.SGD(seeded, lr=0.1), "seed")
    fmoe.manual_seed(1)


@case
def frozen_on_one_rank() -> None:
    model = gpt()
    optimizer = fmoe.SGD(model, lr=0.1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not (RANK == 0 and name == "norm.weight")
    backward(model, fmoe.Mesh())
    raises(ValueError, optimizer.step, "requires_grad")
    optimizer.zero_grad()


@case
def loader_and_model_on_different_meshes() -> None:
    handle, path = tempfile.mkstemp()
    os.write(handle, bytes(range(50)) * 20)
    os.close(handle)
    mesh = fmoe.Mesh(tp=WORLD)
    fmoe.manual_seed(1)
    model = fmoe.GPT(vocab_size=256, n_layer=1, d_model=16, n_head=4, seq_len=16, mesh=mesh)
    optimizer = fmoe.SGD(model, lr=0.1)
    data = fmoe.ByteDataset(path)
    other = fmoe.DataLoader(data, batch_size=4, seq_len=16)
    raises(ValueError, lambda: fmoe.Trainer(model, optimizer, other), "loader", f"tp={WORLD}")


def square(n: int) -> tuple[int, int]:
    return n * n, fmoe.world_size()


@case
def children_are_no_ranks() -> None:
    """What multiprocessing starts inherits the launcher's variables."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(square, [1, 2]) == [(1, 1), (4, 1)]
    assert gather(RANK) == list(range(WORLD))


if __name__ == "__main__":
    main()
