"""moe_layer: everything recomputed; gradients by differences along random directions."""

import numpy as np

from oracle.config import MoEConfig
from oracle.names import moe_shapes

from . import numpy_moe
from .archive import Archive, Floats, expect, expect_close, with_grads

STORED = 1e-6  # what storing float32 costs
SLOPE = 3e-6  # central differences in double of float32 gradients
STEP = 1e-6


def objective(values: dict[str, Floats], dy: Floats, moe: MoEConfig, seq_len: int) -> float:
    x = values["x"].reshape(-1, values["x"].shape[-1])
    params = {name: value for name, value in values.items() if name != "x"}
    out = numpy_moe.moe_layer(x, params, moe, seq_len)
    aux = moe.aux_loss_weight * out.balance + moe.z_loss_weight * out.z
    return float((out.y * dy.reshape(x.shape)).sum() + aux)


def check_slopes(archive: Archive, moe: MoEConfig, seq_len: int) -> None:
    """For each tensor: the slope along a random direction is the gradient times it."""
    values = archive.group("param") | {"x": archive["x"]}
    rng = np.random.RandomState(7)
    for name, value in values.items():
        if name == "gate.weight" and not value.any():
            continue  # exact ties: a step in this direction changes the routing
        direction = rng.standard_normal(value.shape)
        ends = [
            objective(values | {name: value + sign * STEP * direction}, archive["dy"], moe, seq_len)
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        grad = archive[f"grad/{name}"]
        scale = np.abs(grad * direction).sum() + STORED
        error = abs(slope - (grad * direction).sum()) / scale
        expect(error <= SLOPE, f"grad/{name}: slope differs by {error:.2g}, want <= {SLOPE:g}")


def check(archive: Archive) -> None:
    config = archive.config()
    moe, d_model = MoEConfig(**config["moe"]), config["d_model"]
    x = archive["x"]
    expect(x.ndim in (2, 3) and x.shape[-1] == d_model, f"x: shape {x.shape}")
    routed = (x.size // d_model, moe.k)
    archive.expect_keys(
        archive.text_shape()
        | with_grads(moe_shapes(moe, d_model, config["bias"]))
        | {"x": x.shape, "dy": x.shape, "y": x.shape, "grad/x": x.shape}
        | {"indices": routed, "scores": routed}
        | {"balance_loss": (), "z_loss": (), "aux_loss": ()}
    )
    seq_len = x.shape[-2]
    out = numpy_moe.moe_layer(x.reshape(-1, d_model), archive.group("param"), moe, seq_len)
    expect(bool((archive["indices"] == out.indices).all()), "indices: differ from the recomputed")
    expect_close("scores", archive["scores"], out.scores, STORED)
    expect_close("y", archive["y"], out.y.reshape(x.shape), STORED)
    expect_close("balance_loss", archive["balance_loss"], out.balance, STORED)
    expect_close("z_loss", archive["z_loss"], out.z, STORED)
    aux = moe.aux_loss_weight * out.balance + moe.z_loss_weight * out.z
    expect_close("aux_loss", archive["aux_loss"], aux, STORED)
    for e in set(range(moe.num_experts)) - set(out.indices.ravel().tolist()):
        for name in ("up.weight", "down.weight"):
            grad = archive[f"grad/experts.{name}"][e]
            expect(not grad.any(), f"grad/experts.{name}[{e}]: not zero, and it had no token")
    check_slopes(archive, moe, seq_len)
