"""The table of cases: what the layer is, how many tokens, and which experts they prefer."""

import dataclasses

from oracle.config import MoEConfig


@dataclasses.dataclass(frozen=True)
class Case:
    moe: MoEConfig
    shape: tuple[int, ...] = (13,)  # [T], or [B, S] where a sequence matters
    bias: bool = True
    # Added to these experts' logits, the same for every token (through a constant input feature).
    preferred: dict[int, float] = dataclasses.field(default_factory=dict)
    exact_ties: bool = False  # all logits zero: the lower index must win


# k = E for each gate; where a gate takes a fixed k, E follows.
ALL_EXPERTS = {
    "naive": {"num_experts": 3, "top_k": 3},
    "gshard": {"num_experts": 2},
    "switch": {"num_experts": 1},
}
PREFERRED = {0: 8.0, 3: 16.0}  # 3 is everyone's first choice, 0 the second
AVOIDED = {1: -16.0, 4: -16.0}  # no token comes


def moe(gate: str, **options: object) -> MoEConfig:
    """Auxiliary losses weigh enough here to show in every gradient of a gate."""
    defaults = {"num_experts": 5, "d_hidden": 20, "aux_loss_weight": 0.5, "z_loss_weight": 0.1}
    return MoEConfig(gate=gate, **defaults | options)


def cases() -> dict[str, Case]:
    table: dict[str, Case] = {}
    for gate in ("naive", "gshard", "switch"):
        scored = moe(
            gate,
            capacity_factor=1.0,
            drop_policy="score",
            capacity_scope="sequence",
            aux_loss_scope="sequence",
        )
        table |= {
            f"{gate}_dropless": Case(moe(gate)),
            f"{gate}_capacity_position": Case(moe(gate, capacity_factor=1.0)),
            f"{gate}_capacity_sequence": Case(
                moe(gate, capacity_factor=0.75, capacity_scope="sequence"), shape=(2, 9)
            ),
            f"{gate}_capacity_score": Case(scored, shape=(2, 9)),
            f"{gate}_one_token": Case(moe(gate), shape=(1,)),
            f"{gate}_all_experts": Case(moe(gate, **ALL_EXPERTS[gate])),
            f"{gate}_one_expert": Case(moe(gate), preferred=PREFERRED),
            f"{gate}_empty_experts": Case(moe(gate), preferred=AVOIDED),
            f"{gate}_ties": Case(moe(gate), exact_ties=True),
        }
    table["naive_top1"] = Case(moe("naive", top_k=1), preferred={2: 16.0})
    table["naive_top3"] = Case(moe("naive", top_k=3, capacity_factor=0.8))
    table["naive_swiglu_no_bias"] = Case(moe("naive", activation="swiglu"), bias=False)
    table["gshard_shared_relu2"] = Case(moe("gshard", activation="relu2", num_shared_experts=2))
    table["switch_geglu_gate_bias"] = Case(
        moe("switch", activation="geglu", gate_bias=True, num_shared_experts=1)
    )
    return table
