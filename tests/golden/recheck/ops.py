"""ops: keys and shapes; cross-entropy and AdamW recomputed."""

import numpy as np

from .archive import Archive, expect, expect_close
from .gpt import cross_entropy

STORED = 1e-6


def check_attention(archive: Archive) -> None:
    config = archive.config()
    b, s, width = archive["qkv"].shape
    heads, kv_heads, d = config["n_head"], config["n_kv_head"], config["d_head"]
    expect(width == (heads + 2 * kv_heads) * d, f"qkv: width {width}")
    out = (b, s, heads * d)
    archive.expect_keys(
        archive.text_shape()
        | {"qkv": (b, s, width), "grad/qkv": (b, s, width), "dy": out, "y": out}
    )
    first_value = archive["qkv"][:, 0, -kv_heads * d :].reshape(b, kv_heads, d)
    wanted = np.repeat(first_value, heads // kv_heads, axis=1).reshape(b, -1)
    expect_close("y[:, 0] (only itself to attend to)", archive["y"][:, 0], wanted, STORED)


def check_norm(archive: Archive) -> None:
    shape = archive["x"].shape
    vectors = {n: shape[1:] for n in ("weight", "bias") if n in archive.arrays}
    expect("weight" in vectors, "weight: missing")
    grads = {f"grad/{n}": s for n, s in ({"x": shape} | vectors).items()}
    archive.expect_keys(
        archive.text_shape() | vectors | grads | {"x": shape, "dy": shape, "y": shape}
    )
    x = archive["x"] - archive["x"].mean(1, keepdims=True) if "bias" in vectors else archive["x"]
    unit = x / np.sqrt((x**2).mean(1, keepdims=True) + archive.config()["eps"])
    wanted = unit * archive["weight"] + (archive["bias"] if "bias" in vectors else 0.0)
    expect_close("y", archive["y"], wanted, STORED)
    expect_close("grad/weight", archive["grad/weight"], (archive["dy"] * unit).sum(0), STORED)


def check_cross_entropy(archive: Archive) -> None:
    n, v = archive["logits"].shape
    archive.expect_keys(
        {"logits": (n, v), "grad/logits": (n, v), "targets": (n,), "rows": (n,), "dy": (), "y": ()}
    )
    targets, rows = archive["targets"], archive["rows"]
    ignored = targets < 0
    expect(ignored.any() and not rows[ignored].any(), "rows: not 0 where ignored")
    expect(not archive["grad/logits"][ignored].any(), "grad/logits: not 0 where ignored")
    expect_close("y", archive["y"], cross_entropy(archive["logits"], targets), STORED)
    expect_close("y from rows", archive["y"], rows[~ignored].mean(), STORED)


def check_activations(archive: Archive) -> None:
    names = {name.split("/")[0] for name in archive.arrays}
    wanted = {"gelu", "gelu_erf", "relu", "relu2", "silu", "swiglu", "geglu"}
    expect(names == wanted, f"activations {sorted(names)}, want {sorted(wanted)}")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        rows, width = archive[f"{name}/x"].shape
        out = width // 2 if name in ("swiglu", "geglu") else width
        shapes |= {f"{name}/{key}": (rows, width) for key in ("x", "grad/x")}
        shapes |= {f"{name}/{key}": (rows, out) for key in ("y", "dy")}
    archive.expect_keys(shapes)


def check_adamw(archive: Archive) -> None:
    config = archive.config()["adamw"]
    steps = len(archive["grad_norm"])
    params = archive.group("param")
    heads = ["param", "m", "v", *(f"step{i}/{k}" for i in range(1, steps + 1) for k in KINDS)]
    shapes = {f"{head}/{name}": p.shape for name, p in params.items() for head in heads}
    archive.expect_keys(archive.text_shape() | shapes | {"grad_norm": (steps,)})
    (beta1, beta2), lr = config["betas"], config["lr"]
    for name, p in params.items():
        decay = config["weight_decay"] if name.endswith("up.weight") else 0.0
        m, v = np.zeros_like(p), np.zeros_like(p)
        for t in range(1, steps + 1):
            grads = archive.group(f"step{t}/grad")
            norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
            expect_close("grad_norm", archive["grad_norm"][t - 1], norm, STORED)
            g = grads[name] * min(1.0, config["clip_grad_norm"] / (norm + 1e-6))
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            p = p - lr * (m_hat / (np.sqrt(v_hat) + config["eps"]) + decay * p)
            expect_close(f"step{t}/param/{name}", archive[f"step{t}/param/{name}"], p, STORED)
        expect_close(f"m/{name}", archive[f"m/{name}"], m, STORED)
        expect_close(f"v/{name}", archive[f"v/{name}"], v, STORED)


KINDS = ("grad", "param")
CHECKS = {
    "attention": check_attention,
    "attention_rope_gqa": check_attention,
    "attention_rope_mqa": check_attention,
    "layer_norm": check_norm,
    "rms_norm": check_norm,
    "cross_entropy": check_cross_entropy,
    "activations": check_activations,
    "adamw": check_adamw,
}


def check(archive: Archive, name: str) -> None:
    expect(name in CHECKS, f"no check is written for {name}")
    CHECKS[name](archive)
