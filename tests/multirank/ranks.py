"""What a script sees of the other ranks: numbers, meshes, collectives, and an end in any order."""

import gc
import itertools
import os

import multirank
from multirank import case, gather

import fmoe

# Asked for before anything opens a device or communicates.
RANK, WORLD = fmoe.rank(), fmoe.world_size()


@case
def numbers() -> None:
    assert int(os.environ.get("OMPI_COMM_WORLD_SIZE", WORLD)) == WORLD > 1
    assert gather(RANK) == list(range(WORLD))


@case
def threads_are_shared_out() -> None:
    wanted = int(os.environ["OMP_NUM_THREADS"])
    assert fmoe.device_info()["threads"] == wanted


@case
def meshes() -> None:
    divisors = [n for n in range(1, WORLD + 1) if WORLD % n == 0]
    for tp, ep in itertools.product(divisors, divisors):
        mesh = fmoe.Mesh(tp=tp, ep=ep)
        assert (mesh.rank, mesh.world_size) == (RANK, WORLD)
        assert (mesh.dp, mesh.edp) == (WORLD // tp, WORLD // ep)
        assert mesh.tp_rank + tp * mesh.dp_rank == RANK
        assert mesh.ep_rank + ep * mesh.edp_rank == RANK
    try:
        fmoe.Mesh(tp=WORLD + 1)
    except ValueError as error:
        assert f"tp is {WORLD + 1}" in str(error), error
    else:
        raise AssertionError("a tp that does not divide")


@case
def collectives_and_their_gradients() -> None:
    x = fmoe.tensor([float(RANK), 1.0], requires_grad=True)
    y = fmoe.all_reduce(x)
    assert y.tolist() == [WORLD * (WORLD - 1) / 2, float(WORLD)]
    y.backward(fmoe.tensor([1.0, float(RANK)]))
    assert x.grad is not None
    assert x.grad.tolist() == [float(WORLD), WORLD * (WORLD - 1) / 2]
    rows = fmoe.all_gather(fmoe.tensor([[RANK, -RANK]]))
    assert rows.tolist() == [[r, -r] for r in range(WORLD)]
    # One row to each rank, the rank's number in it.
    sent = fmoe.tensor([[100.0 * RANK + to] for to in range(WORLD)])
    got, counts = fmoe.all_to_all(sent, [1] * WORLD, group="world")
    assert list(counts) == [1] * WORLD
    assert got.tolist() == [[100.0 * source + RANK] for source in range(WORLD)]


@case
def a_subgroup() -> None:
    mesh = fmoe.Mesh(tp=2)
    x = fmoe.tensor([float(RANK)])
    pair = RANK // 2 * 2
    assert fmoe.all_reduce(x, mesh=mesh, group="tp").tolist() == [2.0 * pair + 1]


@case
def many_meshes_let_go_of_in_any_order() -> None:
    """Each rank's garbage is collected when it likes; more meshes than MPI could make anew."""
    kept = []
    for i in range(3000):
        mesh = fmoe.Mesh(ep=2, zero=i % 2)
        if (i + RANK) % 3 == 0:
            kept.append(mesh)
        if i % 500 == 100 * RANK:
            kept.clear()
            gc.collect()
    assert gather(1) == [1.0] * WORLD


multirank.main()
