"""numpy and h5py, with an HDF5 of their own, live beside ours in one process."""

import os

import small
from harness import Skip, case, main, scratch

import fmoe


def modules():
    try:
        import h5py
        import numpy
    except ImportError as error:
        raise Skip(f"numpy and h5py: {error}") from None
    return numpy, h5py


@case
def numpy_on_the_left() -> None:
    """The tensor computes, and its graph stays."""
    np, _ = modules()
    t = fmoe.tensor([1.0, 2.0], requires_grad=True)
    for y in (np.float32(0.5) * t, np.float64(2) + t, np.int64(3) - t, t / np.float32(4)):
        assert isinstance(y, fmoe.Tensor), y
    (np.float32(0.5) * t).backward([1.0, 1.0])
    assert t.grad.tolist() == [0.5, 0.5]
    for add in (lambda: np.ones(2, "f") + t, lambda: t + np.ones(2, "f")):
        try:
            raise AssertionError(f"gave {add()!r}")
        except TypeError:
            pass


@case
def both_write_and_read() -> None:
    np, h5py = modules()
    with scratch() as folder:
        m = small.model()
        ckpt = fmoe.Checkpointer(os.path.join(folder, "run"))
        ckpt.save(1, model=m)  # ours, in a thread
        path = os.path.join(folder, "theirs.h5")
        values = np.random.default_rng(0).normal(size=(50, 7))
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, compression="gzip", fletcher32=True)
        ckpt.wait()
        with h5py.File(path, "r") as file:
            assert np.array_equal(file["x"][:], values)
        assert ckpt.load(model=m) == 1


@case
def h5py_reads_a_checkpoint() -> None:
    np, h5py = modules()
    with scratch() as folder:
        m = small.model()
        ckpt = fmoe.Checkpointer(folder)
        ckpt.save(1, model=m)
        ckpt.wait()
        found = {}

        def visit(name, item) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]

        for name in os.listdir(ckpt.path(1)):
            if name.startswith(("dense", "expert")):
                with h5py.File(os.path.join(ckpt.path(1), name), "r") as file:
                    file.visititems(visit)
        for name, parameter in m.named_parameters():
            assert np.array_equal(found[name].ravel(), parameter.numpy().ravel()), name


main()
