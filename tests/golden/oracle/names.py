"""Global parameter names and shapes, from the configuration alone."""

from .config import GATED, GPTConfig, MoEConfig, is_moe_layer

Shapes = dict[str, tuple[int, ...]]

NORMS = ("norm1", "norm2", "norm")


def up_rows(activation: str, hidden: int) -> int:
    """Gated activations take two halves: the gated half first."""
    return 2 * hidden if activation in GATED else hidden


def moe_shapes(moe: MoEConfig, d_model: int, bias: bool, prefix: str = "") -> Shapes:
    num, rows = moe.num_experts, up_rows(moe.activation, moe.d_hidden)
    shapes: Shapes = {"gate.weight": (num, d_model)}
    if moe.gate_bias:
        shapes["gate.bias"] = (num,)
    shapes["experts.up.weight"] = (num, rows, d_model)
    shapes["experts.down.weight"] = (num, d_model, moe.d_hidden)
    if bias:
        shapes["experts.up.bias"] = (num, rows)
        shapes["experts.down.bias"] = (num, d_model)
    if moe.num_shared_experts > 0:
        width = moe.num_shared_experts * moe.d_hidden
        shapes |= mlp_shapes(moe.activation, width, d_model, bias, "shared.")
    return {prefix + name: shape for name, shape in shapes.items()}


def mlp_shapes(activation: str, hidden: int, d_model: int, bias: bool, prefix: str) -> Shapes:
    rows = up_rows(activation, hidden)
    shapes: Shapes = {"up.weight": (rows, d_model), "down.weight": (d_model, hidden)}
    if bias:
        shapes |= {"up.bias": (rows,), "down.bias": (d_model,)}
    return {prefix + name: shape for name, shape in shapes.items()}


def norm_shapes(gpt: GPTConfig, prefix: str) -> Shapes:
    """A layer norm has a gain and a bias, a root-mean-square norm a gain only."""
    names = ("weight", "bias") if gpt.norm == "layernorm" else ("weight",)
    return {f"{prefix}.{name}": (gpt.d_model,) for name in names}


def gpt_shapes(gpt: GPTConfig, moe: MoEConfig | None = None) -> Shapes:
    d = gpt.d_model
    qkv_rows = (gpt.n_head + 2 * gpt.kv_heads) * gpt.d_head
    shapes: Shapes = {"embed.token": (gpt.vocab_size, d)}
    if gpt.position == "learned":
        shapes["embed.position"] = (gpt.seq_len, d)
    for i in range(gpt.n_layer):
        layer = f"layers.{i}."
        shapes |= norm_shapes(gpt, layer + "norm1")
        shapes[layer + "attn.qkv.weight"] = (qkv_rows, d)
        shapes[layer + "attn.out.weight"] = (d, gpt.n_head * gpt.d_head)
        if gpt.bias:
            shapes[layer + "attn.qkv.bias"] = (qkv_rows,)
            shapes[layer + "attn.out.bias"] = (d,)
        shapes |= norm_shapes(gpt, layer + "norm2")
        if moe is not None and is_moe_layer(moe, i):
            shapes |= moe_shapes(moe, d, gpt.bias, layer + "moe.")
        else:
            shapes |= mlp_shapes(gpt.activation, gpt.hidden, d, gpt.bias, layer + "mlp.")
    shapes |= norm_shapes(gpt, "norm")
    if not gpt.tie_embeddings:
        shapes["head.weight"] = (gpt.vocab_size, d)
    return shapes
