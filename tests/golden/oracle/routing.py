"""Gates: one token after the other, written from the definitions.

Letters: T tokens, E experts, k choices, S tokens of a sequence.
"""

import dataclasses
import itertools
import math

import torch
from torch import Tensor

from .config import MoEConfig


@dataclasses.dataclass
class Routing:
    """What a gate decided, and what its losses are."""

    indices: list[list[int]]  # [T][k]; -1 = dropped
    scores: list[list[Tensor]]  # [T][k] scalars; of a dropped copy: what it would have been
    balance: Tensor  # unweighted; 1 at perfect balance; 0 for a gate without one
    z: Tensor  # mean of logsumexp(logits)^2 over the tokens
    margin: float  # the smallest gap that a comparison of logits or scores relied on

    def kept_scores(self) -> list[list[float]]:
        """As `scores`, with 0 where the copy was dropped."""
        return [
            [s.item() if e >= 0 else 0.0 for e, s in zip(row, row_scores, strict=True)]
            for row, row_scores in zip(self.indices, self.scores, strict=True)
        ]


def rank_experts(row: list[float]) -> list[int]:
    """Highest logit first; ties go to the lower index."""
    return sorted(range(len(row)), key=lambda e: (-row[e], e))


def smallest_gap(descending: list[float]) -> float:
    return min((a - b for a, b in itertools.pairwise(descending)), default=math.inf)


def route(moe: MoEConfig, logits: Tensor, seq_len: int) -> Routing:
    """logits [T, E]; T is a multiple of seq_len."""
    k, num_experts = moe.k, moe.num_experts
    indices: list[list[int]] = []
    scores: list[list[Tensor]] = []
    margin = math.inf
    for row in logits:
        values = row.tolist()
        order = rank_experts(values)
        margin = min(margin, smallest_gap([values[e] for e in order[: k + 1]]))
        chosen = order[:k]
        indices.append(chosen)
        scores.append(score(moe.gate, row, chosen))
    balance = balance_loss(moe, logits, indices, seq_len)
    z = torch.stack([torch.logsumexp(row, dim=0) ** 2 for row in logits]).mean()
    if moe.capacity_factor is not None:
        group = seq_len if moe.capacity_scope == "sequence" else len(indices)
        capacity = math.ceil(moe.capacity_factor * k * group / num_experts)
        for start in range(0, len(indices), group):
            gap = drop(moe, indices, scores, range(start, start + group), capacity)
            margin = min(margin, gap)
    return Routing(indices, scores, balance, z, margin)


def score(gate: str, row: Tensor, chosen: list[int]) -> list[Tensor]:
    if gate == "naive":
        return list(torch.softmax(row[chosen], dim=0))
    probabilities = torch.softmax(row, dim=0)
    if gate == "switch":
        return [probabilities[chosen[0]]]
    if gate == "gshard":
        first, second = (probabilities[e] for e in chosen)
        return [first / (first + second), second / (first + second)]
    raise ValueError(f"gate {gate!r}: not one of naive, switch, gshard")


def balance_loss(moe: MoEConfig, logits: Tensor, indices: list[list[int]], seq_len: int) -> Tensor:
    """E * sum_e f_e * P_e over each scope's tokens, before drops; the mean over scopes."""
    if moe.gate == "naive":
        return logits.new_zeros(())
    group = seq_len if moe.aux_loss_scope == "sequence" else len(indices)
    losses = []
    for start in range(0, len(indices), group):
        tokens = range(start, start + group)
        total = logits.new_zeros(())
        for e in range(moe.num_experts):
            fraction = sum(indices[t][0] == e for t in tokens) / group
            mean_probability = sum(torch.softmax(logits[t], dim=0)[e] for t in tokens) / group
            total = total + fraction * mean_probability
        losses.append(moe.num_experts * total)
    return torch.stack(losses).mean()


def drop(
    moe: MoEConfig,
    indices: list[list[int]],
    scores: list[list[Tensor]],
    tokens: range,
    capacity: int,
) -> float:
    """Keeps `capacity` copies of each expert, writes -1 over the others, returns the margin."""
    margin = math.inf
    by_score = moe.drop_policy == "score"
    for e in range(moe.num_experts):
        copies = [(t, j) for t in tokens for j in range(moe.k) if indices[t][j] == e]
        if by_score:
            copies.sort(key=lambda copy: (-scores[copy[0]][copy[1]].item(), copy))
            margin = min(margin, smallest_gap([scores[t][j].item() for t, j in copies]))
        for t, j in copies[capacity:]:
            indices[t][j] = -1
    return margin
