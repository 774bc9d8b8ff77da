"""Configurations, with the keyword names and defaults of fmoe.GPT and fmoe.MoE.

A golden file stores them as JSON, so that a test builds its model with
fmoe.GPT(**config["gpt"], moe=fmoe.MoE(**config["moe"])) and repeats no number.
"""

import dataclasses
import json
from typing import Any

GATED = ("swiglu", "geglu")


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    num_experts: int
    d_hidden: int
    top_k: int | None = None
    gate: str = "gshard"
    activation: str = "gelu"
    capacity_factor: float | None = None
    drop_policy: str = "position"
    capacity_scope: str = "global"
    aux_loss_weight: float = 0.01
    aux_loss_scope: str = "global"
    z_loss_weight: float = 0.0
    gate_bias: bool = False
    num_shared_experts: int = 0
    every: int = 2
    second_policy: str = "all"

    @property
    def k(self) -> int:
        """top_k, or the gate's own when none is given."""
        own = 1 if self.gate == "switch" else 2
        return own if self.top_k is None else self.top_k


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    n_layer: int
    d_model: int
    n_head: int
    seq_len: int
    d_hidden: int | None = None
    n_kv_head: int | None = None
    activation: str = "gelu"
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    position: str = "learned"
    rope_theta: float = 10000.0
    bias: bool = True
    tie_embeddings: bool = True

    @property
    def hidden(self) -> int:
        """d_hidden; 4 * d_model when none is given, for gated activations too."""
        return 4 * self.d_model if self.d_hidden is None else self.d_hidden

    @property
    def kv_heads(self) -> int:
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head


def is_moe_layer(moe: MoEConfig | None, layer: int) -> bool:
    return moe is not None and (layer + 1) % moe.every == 0


def to_json(**configs: Any) -> str:  # noqa: ANN401
    """Dataclasses become objects, in a fixed order; None stays null."""
    plain = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for name, value in configs.items()
    }
    return json.dumps(plain, sort_keys=True)
