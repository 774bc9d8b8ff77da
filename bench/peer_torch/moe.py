"""The MoE layer in the forms that PyTorch offers on a CPU. All give the same result.

Letters: T tokens, E experts, k choices, N = T k copies, d model width, h expert width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from shapes import Shape

Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # up [E, h, d], [E, h], down [E, d, h], [E, d]


class GroupedLinear(torch.autograd.Function):
    """One product per expert, written in place into one result: no cat, no stack."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, counts: list[int]) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x, weight)
        ctx.counts = counts
        y = x.new_empty(x.shape[0], weight.shape[1])
        start = 0
        for e, count in enumerate(counts):
            rows = slice(start, start + count)
            torch.addmm(bias[e], x[rows], weight[e].T, out=y[rows])
            start += count
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN001
        x, weight = ctx.saved_tensors
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        dbias = weight.new_empty(weight.shape[:2])
        start = 0
        for e, count in enumerate(ctx.counts):
            rows = slice(start, start + count)
            torch.mm(dy[rows], weight[e], out=dx[rows])
            torch.mm(dy[rows].T, x[rows], out=dweight[e])
            torch.sum(dy[rows], 0, out=dbias[e])
            start += count
        return dx, dweight, dbias, None


def sort_copies(indices: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """indices [T, k] -> order [N], the copies by expert, and counts [E]."""
    flat = indices.flatten()
    return flat.argsort(stable=True), torch.bincount(flat, minlength=num_experts)


def combine(y: Tensor, scores: Tensor, order: Tensor) -> Tensor:
    """y [N, d] by expert -> [T, d]: back into the tokens' order, weighted, summed."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    copies = y[inverse].view(*scores.shape, -1)
    return torch.einsum("tk,tkd->td", scores.to(y.dtype), copies)


@torch.compiler.disable  # counts on the host decide shapes: a compiler would compile every step
def experts_sort(x: Tensor, indices: Tensor, scores: Tensor, weights: Weights) -> Tensor:
    up, up_bias, down, down_bias = weights
    order, counts = sort_copies(indices, up.shape[0])
    parts = x[order // indices.shape[1]].split(counts.tolist())
    done = []
    for part, w, b, v, c in zip(
        parts, up.unbind(), up_bias.unbind(), down.unbind(), down_bias.unbind(), strict=True
    ):
        hidden = functional.gelu(functional.linear(part, w, b), approximate="tanh")
        done.append(functional.linear(hidden, v, c))
    return combine(torch.cat(done), scores, order)


@torch.compiler.disable
def experts_sort_in_place(x: Tensor, indices: Tensor, scores: Tensor, weights: Weights) -> Tensor:
    up, up_bias, down, down_bias = (w.to(x.dtype) for w in weights)
    order, counts = sort_copies(indices, up.shape[0])
    sizes = counts.tolist()
    rows = x[order // indices.shape[1]]
    hidden = functional.gelu(GroupedLinear.apply(rows, up, up_bias, sizes), approximate="tanh")
    return combine(GroupedLinear.apply(hidden, down, down_bias, sizes), scores, order)


@torch.compiler.disable
def experts_loop(x: Tensor, indices: Tensor, scores: Tensor, weights: Weights) -> Tensor:
    out = torch.zeros_like(x)
    for e, (w, b, v, c) in enumerate(zip(*(weight.unbind() for weight in weights), strict=True)):
        token, choice = torch.where(indices == e)
        hidden = functional.gelu(functional.linear(x[token], w, b), approximate="tanh")
        y = functional.linear(hidden, v, c) * scores[token, choice].unsqueeze(1)
        out.index_add_(0, token, y.to(out.dtype))
    return out


def experts_grouped_mm(x: Tensor, indices: Tensor, scores: Tensor, weights: Weights) -> Tensor:
    up, up_bias, down, down_bias = (w.to(x.dtype) for w in weights)
    order, counts = sort_copies(indices, up.shape[0])
    ends = counts.cumsum(0).to(torch.int32)
    expert = indices.flatten()[order]
    rows = x[order // indices.shape[1]]
    hidden = functional.grouped_mm(rows, up.transpose(1, 2), offs=ends) + up_bias[expert]
    hidden = functional.gelu(hidden, approximate="tanh")
    y = functional.grouped_mm(hidden, down.transpose(1, 2), offs=ends) + down_bias[expert]
    return combine(y, scores, order)


Experts = Callable[[Tensor, Tensor, Tensor, Weights], Tensor]

EXPERTS: dict[str, Experts] = {
    "sort": experts_sort,
    "sort_in_place": experts_sort_in_place,
    "loop": experts_loop,
    "grouped_mm": experts_grouped_mm,
}


class MoE(nn.Module):
    """gshard's top-2 with both choices kept, dropless; the router in float32."""

    def __init__(self, shape: Shape, experts: str) -> None:
        super().__init__()
        num, d, h = shape.num_experts, shape.d_model, shape.d_hidden
        self.top_k = shape.top_k
        self.experts = EXPERTS[experts]
        self.gate = nn.Parameter(torch.empty(num, d))
        self.up = nn.Parameter(torch.empty(num, h, d))
        self.up_bias = nn.Parameter(torch.empty(num, h))
        self.down = nn.Parameter(torch.empty(num, d, h))
        self.down_bias = nn.Parameter(torch.empty(num, d))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, S, d] -> the same shape, and the balance loss."""
        flat = x.flatten(0, 1)
        with torch.autocast("cpu", enabled=False):
            probabilities = functional.linear(flat.float(), self.gate).softmax(-1)
        top, indices = probabilities.topk(self.top_k)
        scores = top / top.sum(-1, keepdim=True)
        num = self.gate.shape[0]
        fraction = torch.bincount(indices[:, 0], minlength=num) / indices.shape[0]
        balance = num * (fraction * probabilities.mean(0)).sum()
        if torch.is_autocast_enabled("cpu"):
            flat = flat.to(torch.get_autocast_dtype("cpu"))
        weights = (self.up, self.up_bias, self.down, self.down_bias)
        return self.experts(flat, indices, scores, weights).view_as(x), balance
