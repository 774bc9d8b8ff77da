"""train100: keys, the schedule, the sum of the losses, and that something was learnt."""

import math

import numpy as np

from oracle.config import GPTConfig, MoEConfig
from oracle.names import gpt_shapes

from .archive import Archive, expect, expect_close

STORED = 1e-6
SERIES = ("lm_loss", "loss", "balance_loss", "z_loss", "grad_norm", "lr")


def check(archive: Archive) -> None:
    config = archive.config()
    gpt, moe = GPTConfig(**config["gpt"]), MoEConfig(**config["moe"])
    warmup, total, final = (config["schedule"][n] for n in ("warmup", "total", "final"))
    tokens = archive["tokens"]
    expect(
        tokens.ndim == 3 and tokens.shape[::2] == (total, gpt.seq_len + 1),
        f"tokens: shape {tokens.shape}, want ({total}, batch, {gpt.seq_len + 1})",
    )
    params = gpt_shapes(gpt, moe)
    shapes = archive.text_shape() | {f"param/{n}": shape for n, shape in params.items()}
    shapes |= {f"final/{n}": s for n, s in params.items() if not n.endswith("attn.qkv.bias")}
    shapes |= {"tokens": tokens.shape} | dict.fromkeys(SERIES, (total,))
    archive.expect_keys(shapes)
    base = config["adamw"]["lr"]
    step = np.arange(1, total + 1)
    turn = np.pi * (step - warmup) / (total - warmup)
    decay = final + (1 - final) * 0.5 * (1 + np.cos(turn))
    lr = base * np.where(step <= warmup, step / warmup, decay)
    expect_close("lr", archive["lr"], lr, STORED)
    summed = archive["lm_loss"] + moe.aux_loss_weight * archive["balance_loss"]
    expect_close("loss", archive["loss"], summed + moe.z_loss_weight * archive["z_loss"], STORED)
    start, end = archive["lm_loss"][0], archive["lm_loss"][-5:].mean()
    uniform = math.log(gpt.vocab_size)
    expect(abs(start / uniform - 1) < 0.01, f"lm_loss starts at {start}, want about {uniform}")
    expect(end < start - 0.5, f"lm_loss ends at {end}, want well below {start}")
    expect((archive["grad_norm"] > 0).all(), "grad_norm: not positive")
