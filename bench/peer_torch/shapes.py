"""The two models that the benchmark trains, and what a token of them costs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """A pre-norm GPT: learned positions, biases, tied embeddings, gelu (tanh), no dropout."""

    n_layer: int
    d_model: int
    n_head: int
    seq_len: int
    batch_size: int
    num_experts: int
    d_hidden: int  # of the dense feed-forward and of each expert
    vocab_size: int = 256
    top_k: int = 2
    every: int = 2  # layer i has experts when (i + 1) % every == 0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    def is_moe_layer(self, layer: int) -> bool:
        return (layer + 1) % self.every == 0


SHAPES = {
    "S": Shape(4, 256, 8, seq_len=256, batch_size=8, num_experts=8, d_hidden=1024),
    "M": Shape(6, 512, 8, seq_len=512, batch_size=4, num_experts=16, d_hidden=2048),
}


def flops_per_token(shape: Shape, moe: bool) -> float:
    """Model FLOPs of one training step per token: 3 x forward, attention counted causally.

    Forward, with d = d_model, h = d_hidden, S = seq_len, V = vocab_size, E = num_experts,
    k = top_k:

        per layer    8 d^2          qkv and output projections
                     2 d (S + 1)    scores and values: a token sees (S + 1) / 2 keys on average
                     4 d h          feed-forward, or 4 d h k + 2 d E with experts
        once         2 d V          the head
    """
    d, h = shape.d_model, shape.d_hidden
    forward = 2.0 * d * shape.vocab_size
    for layer in range(shape.n_layer):
        forward += 8 * d * d + 2 * d * (shape.seq_len + 1)
        if moe and shape.is_moe_layer(layer):
            forward += 4 * d * h * shape.top_k + 2 * d * shape.num_experts
        else:
            forward += 4 * d * h
    return 3 * forward
