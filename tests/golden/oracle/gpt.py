"""A pre-norm GPT on a page.

Letters: B sequences, S tokens of each, d model width, H query heads, G key and value heads,
D head width, V vocabulary.
"""

import dataclasses
import math

import torch
from torch import Tensor

from .config import GPTConfig, MoEConfig, is_moe_layer
from .mlp import Params, linear, mlp
from .moe import moe_layer
from .routing import Routing

IGNORE = -1


@dataclasses.dataclass
class Output:
    logits: Tensor  # [B, S, V]
    lm_loss: Tensor  # mean over the targets that are not IGNORE
    balance: Tensor  # mean over the MoE layers, unweighted
    z: Tensor  # likewise
    loss: Tensor  # lm_loss + aux_loss_weight * balance + z_loss_weight * z
    routing: dict[int, Routing]  # by layer


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Variance without Bessel's correction, eps under the root."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred**2).mean(-1, keepdim=True) + eps) * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def rope(x: Tensor, theta: float) -> Tensor:
    """x [B, heads, S, D]: turns the pair (i, i + D/2) at position s by s * theta^(-2i/D)."""
    half = x.shape[-1] // 2
    positions = torch.arange(x.shape[-2], dtype=torch.float64)
    rates = theta ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(positions, rates)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, S, D], k and v [B, G, S, D] -> [B, H, S, D]; head h reads key head h // (H/G)."""
    repeat = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
    weights = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return torch.softmax(weights.masked_fill(future, -math.inf), dim=-1) @ v


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [N, V], targets [N]; the mean over targets that are not IGNORE."""
    valid = targets != IGNORE
    rows = logits[valid]
    picked = rows.gather(1, targets[valid].unsqueeze(1)).squeeze(1)
    return (torch.logsumexp(rows, dim=1) - picked).mean()


def norm(x: Tensor, params: Params, name: str, gpt: GPTConfig) -> Tensor:
    if gpt.norm == "rmsnorm":
        return rms_norm(x, params[name + ".weight"], gpt.norm_eps)
    return layer_norm(x, params[name + ".weight"], params[name + ".bias"], gpt.norm_eps)


def self_attention(x: Tensor, params: Params, prefix: str, gpt: GPTConfig) -> Tensor:
    """Rows of qkv: all of q, then all of k, then all of v, each head after head."""
    b, s, _ = x.shape
    heads = (gpt.n_head, gpt.kv_heads, gpt.kv_heads)
    qkv = linear(x, params[prefix + "qkv.weight"], params.get(prefix + "qkv.bias"))
    parts = qkv.split([n * gpt.d_head for n in heads], dim=-1)
    q, k, v = (
        part.view(b, s, n, gpt.d_head).transpose(1, 2) for part, n in zip(parts, heads, strict=True)
    )
    if gpt.position == "rope":
        q, k = rope(q, gpt.rope_theta), rope(k, gpt.rope_theta)
    joined = attention(q, k, v).transpose(1, 2).reshape(b, s, gpt.n_head * gpt.d_head)
    return linear(joined, params[prefix + "out.weight"], params.get(prefix + "out.bias"))


def forward(
    params: Params, gpt: GPTConfig, moe: MoEConfig | None, tokens: Tensor, targets: Tensor
) -> Output:
    """tokens, targets [B, S] int64."""
    b, s = tokens.shape
    routing: dict[int, Routing] = {}
    x = params["embed.token"][tokens]
    if gpt.position == "learned":
        x = x + params["embed.position"][:s]
    for i in range(gpt.n_layer):
        layer = f"layers.{i}."
        x = x + self_attention(norm(x, params, layer + "norm1", gpt), params, layer + "attn.", gpt)
        y = norm(x, params, layer + "norm2", gpt)
        if moe is not None and is_moe_layer(moe, i):
            flat, routing[i] = moe_layer(y.view(b * s, -1), params, layer + "moe.", moe, s)
            x = x + flat.view_as(x)
        else:
            x = x + mlp(y, params, layer + "mlp.", gpt.activation)
    x = norm(x, params, "norm", gpt)
    head = params["embed.token"] if gpt.tie_embeddings else params["head.weight"]
    logits = x @ head.T
    lm_loss = cross_entropy(logits.view(b * s, -1), targets.view(-1))
    balance = z = logits.new_zeros(())
    loss = lm_loss
    if moe is not None and routing:
        balance = torch.stack([r.balance for r in routing.values()]).mean()
        z = torch.stack([r.z for r in routing.values()]).mean()
        loss = lm_loss + moe.aux_loss_weight * balance + moe.z_loss_weight * z
    return Output(logits, lm_loss, balance, z, loss, routing)
