"""Gates written in Python."""

from __future__ import annotations

from _fmoe import Tensor

from .module import Module


class Gate(Module):
    """Decides which experts a token goes to. Subclass it and pass the class: MoE(gate=MyGate).

    One object is made for each MoE layer, MyGate(d_model, num_experts, top_k). Its Parameters are
    the model's, under `layers.I.moe.gate.`; self.training, self.mesh and self.layer are there.
    """

    layer: int | None = None
    """The number I of the model's layer that it serves; None in a MoELayer of its own."""

    default_top_k: int = 2
    """What MoE(top_k=None) means."""

    def __init__(self, d_model: int, num_experts: int, top_k: int) -> None:
        self.d_model = d_model
        self.num_experts = num_experts
        self.top_k = top_k

    def forward(
        self, x: Tensor, token_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(indices, scores, loss) of tokens x [T, d_model], token_ids int32 [T].

        indices: int32 [T, top_k], -1 = not taken. scores: float32 [T, top_k], differentiable;
        NaN is refused.
        loss: float32 of one element, the unweighted balance loss (1 at perfect balance), or None.

        On several ranks x is this rank's tokens, and the mean of the ranks' losses counts. The
        groups of fmoe.all_reduce and its like are self.mesh's here; all ranks call them alike.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")
