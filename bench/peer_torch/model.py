"""The GPT, as one writes it in PyTorch to be fast: fused attention, fused projections."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe import MoE
from shapes import Shape

AUX_LOSS_WEIGHT = 0.01
INIT_STD = 0.02


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model)
        self.out = nn.Linear(shape.d_model, shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.d_model, shape.d_hidden)
        self.down = nn.Linear(shape.d_hidden, shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, shape: Shape, experts: str | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.d_model)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.d_model)
        self.ffn = FeedForward(shape) if experts is None else MoE(shape, experts)
        self.has_experts = experts is not None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = x + self.attention(self.norm1(x))
        y = self.ffn(self.norm2(x))
        if not self.has_experts:
            return x + y, None
        y, balance = y
        return x + y, balance


class GPT(nn.Module):
    """`experts` names a form in moe.py; None: a dense model."""

    def __init__(self, shape: Shape, experts: str | None) -> None:
        super().__init__()
        self.token = nn.Embedding(shape.vocab_size, shape.d_model)
        self.position = nn.Embedding(shape.seq_len, shape.d_model)
        self.blocks = nn.ModuleList(
            Block(shape, experts if shape.is_moe_layer(i) else None) for i in range(shape.n_layer)
        )
        self.norm = nn.LayerNorm(shape.d_model)
        self.start(shape.n_layer)

    def start(self, n_layer: int) -> None:
        residual = INIT_STD / math.sqrt(2 * n_layer)
        for name, p in self.named_parameters():
            if "norm" in name:
                continue  # gains 1, biases 0 already
            if name.endswith("bias"):
                nn.init.zeros_(p)
            else:
                into_residual = "down" in name or "attention.out" in name
                nn.init.normal_(p, std=residual if into_residual else INIT_STD)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets [B, S] -> the loss with the weighted balance losses."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        balances = []
        for block in self.blocks:
            x, balance = block(x)
            if balance is not None:
                balances.append(balance)
        logits = functional.linear(self.norm(x), self.token.weight)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        if balances:
            loss = loss + AUX_LOSS_WEIGHT * torch.stack(balances).mean()
        return loss
