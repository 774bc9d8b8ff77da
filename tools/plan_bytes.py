"""What a GPT is and sends on a mesh: parameters, bytes of a rank, bytes of a step. See plan.py.

Exact for an even routing, but for activations, which are an estimate. Of rank 0, whose parts
are the largest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

ALIGN = 16  # elements: parameters and pieces begin at multiples of it
LOGITS_BUDGET = 64 << 20  # bytes of logits that a loss holds at one time


@dataclasses.dataclass(frozen=True)
class Model:
    """As fmoe.GPT and fmoe.MoE define it; d_hidden is of dense layers and of experts."""

    vocab_size: int
    n_layer: int
    d_model: int
    n_head: int
    seq_len: int
    d_hidden: int = 0  # 0: 4 d_model
    n_kv_head: int = 0  # 0: n_head
    glu: bool = False  # swiglu or geglu
    rmsnorm: bool = False
    rope: bool = False
    bias: bool = True
    tied: bool = True
    bfloat16: bool = False
    recompute: bool = False
    num_experts: int = 0  # 0: dense
    top_k: int = 2
    every: int = 2
    num_shared_experts: int = 0
    capacity: bool = False
    balance: bool = True  # the gate has a balance loss

    @property
    def hidden(self) -> int:
        return self.d_hidden or 4 * self.d_model

    @property
    def up(self) -> int:
        return 2 * self.hidden if self.glu else self.hidden

    @property
    def kv(self) -> int:
        return (self.n_kv_head or self.n_head) * (self.d_model // self.n_head)

    @property
    def size(self) -> int:
        return 2 if self.bfloat16 else 4

    def is_moe(self, layer: int) -> bool:
        return self.num_experts > 0 and (layer + 1) % self.every == 0

    @property
    def moe_layers(self) -> int:
        return sum(self.is_moe(i) for i in range(self.n_layer))


@dataclasses.dataclass(frozen=True)
class Mesh:
    world: int = 1
    tp: int = 1
    ep: int = 1
    etp: int = 1
    zero: int = 1
    bucket: int = 1 << 22  # elements that are reduced at one time; what fmoe.Mesh does

    def __post_init__(self) -> None:
        for name, n in (("tp", self.tp), ("ep*etp", self.ep * self.etp)):
            if self.world % n:
                raise ValueError(f"{name} is {n}: it must divide the {self.world} ranks")

    @property
    def dp(self) -> int:
        return self.world // self.tp

    @property
    def edp(self) -> int:
        return self.world // (self.ep * self.etp)

    def ranks(self, group: str) -> int:
        """Of a group, by the names of mesh.comm_stats()."""
        return {
            "dp": self.dp,
            "stage": self.world,
            "edp": self.edp,
            "expert_replicas": self.edp * self.etp,
            "tp": self.tp,
            "expert": self.ep * self.etp,
            "world": self.world,
        }[group]

    def span(self, group: str) -> int:
        """Ranks from the first of a group to its last: ranks are numbered tp (etp) first."""
        return self.ranks(group) if group in ("tp", "expert") else self.world


class Parameter(NamedTuple):
    numel: int  # of the whole model
    local: int  # on a rank
    group: str  # the ranks that hold the same values
    fp32: bool


def parameters(m: Model, mesh: Mesh) -> Iterator[Parameter]:
    tp, d, h = mesh.tp, m.d_model, m.hidden
    f32 = not m.bfloat16

    def split(numel: int, local: int) -> Parameter:
        return Parameter(numel, local, "dp" if tp > 1 else "stage", f32)

    def whole(numel: int, fp32: bool = f32) -> Parameter:
        return Parameter(numel, numel, "stage", fp32)

    def linear(rows: int, columns: int, by_rows: bool) -> Iterator[Parameter]:
        yield split(rows * columns, rows * columns // tp)
        if m.bias:
            yield split(rows, rows // tp) if by_rows else whole(rows)

    def norm() -> Iterator[Parameter]:
        yield whole(d)
        if m.bias and not m.rmsnorm:
            yield whole(d)

    def expert(numel: int, is_split: bool) -> Parameter:
        local = numel // mesh.ep // (mesh.etp if is_split else 1)
        group = "edp" if is_split or mesh.etp == 1 else "expert_replicas"
        return Parameter(numel, local, group, f32)

    vocab = split(m.vocab_size * d, -(-m.vocab_size // tp) * d)
    yield vocab
    if not m.rope:
        yield whole(m.seq_len * d)
    for layer in range(m.n_layer):
        yield from norm()
        yield from linear(d + 2 * m.kv, d, True)
        yield from linear(d, d, False)
        yield from norm()
        if not m.is_moe(layer):
            yield from linear(m.up, d, True)
            yield from linear(d, h, False)
            continue
        yield whole(m.num_experts * d, True)  # the router
        yield expert(m.num_experts * m.up * d, True)
        if m.bias:
            yield expert(m.num_experts * m.up, True)
        yield expert(m.num_experts * d * h, True)
        if m.bias:
            yield expert(m.num_experts * d, False)
        s = m.num_shared_experts
        for rows, columns in ((s * m.up, d), (d, s * h)) if s else ():
            yield whole(rows * columns)
            if m.bias:
                yield whole(rows)
    yield from norm()
    if not m.tied:
        yield vocab


def num_parameters(m: Model) -> int:
    return sum(p.numel for p in parameters(m, Mesh()))


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def segments(m: Model, mesh: Mesh) -> dict[tuple[str, bool], int]:
    """Elements of the flat buffers, by group of replicas and whether they are fp32."""
    found: dict[tuple[str, bool], int] = {}
    for p in parameters(m, mesh):
        key = (p.group, p.fp32)
        found[key] = found.get(key, 0) + _up(p.local, ALIGN)
    return {key: _up(n, ALIGN * mesh.ranks(key[0])) for key, n in found.items()}


def memory(m: Model, mesh: Mesh, batch_size: int, micro_batches: int = 1) -> dict[str, int]:
    """Bytes of a rank, as model.memory_plan() has them, less attention's scratch in backward."""
    weights = gradients = moments = 0
    for (group, fp32), n in segments(m, mesh).items():
        ranks = mesh.ranks(group)
        sharded = mesh.zero == 1 and ranks > 1
        own = n // ranks if sharded else n
        weights += 4 * n if fp32 else 2 * n + 4 * own
        gradients += 4 * n + (4 * own if sharded else 0)
        moments += 8 * own
    if m.bfloat16:  # the bf16 buffer has room for the fp32 ones as well
        weights += 2 * sum(n for (_, fp32), n in segments(m, mesh).items() if fp32)
    rows = batch_size // (mesh.dp * micro_batches)
    d, tp, T = m.d_model, mesh.tp, rows * m.seq_len
    wide = 3 * m.hidden if m.glu else 2 * m.hidden
    blocks, widest, transient = 0.0, 0.0, 0.0
    for layer in range(m.n_layer):
        k = m.top_k if m.is_moe(layer) else 1
        a = float(5 * d + d + 2 * m.kv)
        if m.is_moe(layer):
            a += k * (2 * d + wide) + m.num_shared_experts * wide
        else:
            a += wide
        blocks += (d if m.recompute else a) / tp
        widest = max(widest, a / tp)
        transient = max(transient, (d + k * (d + m.hidden * (2 if m.glu else 1))) / tp)
    if tp > 1:
        transient += (3 if rows > 1 else 2) * d
    if m.recompute:
        transient += widest
    logits = min(T * -(-m.vocab_size // tp) * m.size, LOGITS_BUDGET)
    ends = max(T * transient * m.size, T * 2 * d * m.size + logits)
    return {
        "parameters": weights,
        "gradients": gradients,
        "moments": moments,
        "activations": int(T * blocks * m.size + ends),
    }


class Traffic(NamedTuple):
    """Collectives of one kind in one step, of this rank."""

    what: str
    group: str
    kind: str
    calls: int
    bytes: int  # sent, in all
    when: str  # backward, update: hidden behind that; wait: not hidden


def traffic(m: Model, mesh: Mesh, batch_size: int, micro_batches: int = 1) -> list[Traffic]:
    """What a step sends; messages of a few words (loss, norm) left out."""
    rows = batch_size // (mesh.dp * micro_batches)
    T, d, n = rows * m.seq_len // mesh.tp, m.d_model, micro_batches
    found = []
    for (group, fp32), numel in segments(m, mesh).items():
        ranks = mesh.ranks(group)
        if ranks == 1:
            continue
        calls, part = -(-numel // _up(mesh.bucket, ALIGN * ranks)), numel // ranks * (ranks - 1)
        dense = "gradients" + ("" if group in ("dp", "stage") else " of experts")
        if mesh.zero == 0:
            found.append(Traffic(dense, group, "all_reduce", calls, 8 * part, "backward"))
            continue
        found.append(Traffic(dense, group, "reduce_scatter", calls, 4 * part, "backward"))
        size = 4 if fp32 else 2
        weights = dense.replace("gradients", "weights")
        found.append(Traffic(weights, group, "all_gather", calls, size * part, "update"))
    again = 2 if m.recompute else 1
    if m.moe_layers and mesh.world > 1:
        words = 3 * m.num_experts + 5 + (m.num_experts if m.capacity else 0)
        calls = m.moe_layers * n * again * (2 if m.capacity else 1)
        sent = 4 * words * (mesh.world - 1) * m.moe_layers * n * again
        found.append(Traffic("who chose what", "stage", "all_gather", calls, sent, "wait"))
        if m.balance:  # the mean of the ranks' losses, one number
            found.append(Traffic("routers' loss", "stage", "all_reduce", n, 4 * n, "wait"))
    R = mesh.ep * mesh.etp
    if m.moe_layers and R > 1:
        one = T * m.top_k * d * m.size * (R - 1) // mesh.ep
        for what, times in (("tokens, forward", 2 * again), ("tokens, backward", 2)):
            calls = times * m.moe_layers * n
            found.append(Traffic(what, "expert", "all_to_all_v", calls, calls * one, "wait"))
    if mesh.tp > 1:
        M = (mesh.tp - 1) * T * d * m.size
        dense = m.n_layer - m.moe_layers
        gathers = 2 * dense + m.moe_layers  # of qkv, up; as many reduce-scatters (out, down)
        ends = n  # the embedding's reduce-scatter, the head's all-gather, and the other way
        fwd = again * gathers * n
        found += [
            Traffic("inputs, forward", "tp", "all_gather", fwd + ends, (fwd + ends) * M, "wait"),
            Traffic("sums, forward", "tp", "reduce_scatter", fwd + ends, (fwd + ends) * M, "wait"),
        ]
        back = gathers * n
        found += [
            Traffic("backward", "tp", "all_gather", 2 * back + ends, (2 * back + ends) * M, "half"),
            Traffic("backward", "tp", "reduce_scatter", back + ends, (back + ends) * M, "half"),
        ]
    return found


def flops_per_token(m: Model) -> float:
    """Of one training step, 3 x forward, attention counted causally: model.flops_per_token()."""
    d, forward = m.d_model, 2.0 * m.d_model * m.vocab_size
    for layer in range(m.n_layer):
        forward += 2 * d * (d + 2 * m.kv) + 2 * d * d + 2 * (m.seq_len + 1) * d
        ffn = 2.0 * d * (m.up + m.hidden)
        if m.is_moe(layer):
            forward += 2 * d * m.num_experts + ffn * (m.top_k + m.num_shared_experts)
        else:
            forward += ffn
    return 3 * forward
