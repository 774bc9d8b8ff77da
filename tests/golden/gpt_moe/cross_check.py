"""The naive gate with gated experts, in `transformers`: Mixtral."""

import torch
from torch import Tensor

from oracle import compare_transformers as check
from oracle.config import GPTConfig, MoEConfig
from oracle.gpt import Output
from oracle.gpt_case import Arrays


def mixtral(
    config: GPTConfig, moe: MoEConfig, arrays: Arrays, out: Output, params: dict[str, Tensor]
) -> None:
    if not check.importable():
        return
    import transformers

    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=moe.d_hidden,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.seq_len,
            rms_norm_eps=config.norm_eps,
            hidden_act="silu",
            num_local_experts=moe.num_experts,
            num_experts_per_tok=moe.k,
            sliding_window=None,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
            experts_implementation="eager",
        )
    ).double()
    kv = config.kv_heads * config.d_head
    sizes = [config.n_head * config.d_head, kv, kv]

    def ours(values: dict[str, Tensor]) -> list[Tensor]:
        """In their order."""
        pieces = [values[name] for name in ("embed.token", "norm.weight", "head.weight")]
        for i in range(config.n_layer):
            layer = {
                name.removeprefix(f"layers.{i}."): value
                for name, value in values.items()
                if name.startswith(f"layers.{i}.")
            }
            pieces += layer["attn.qkv.weight"].split(sizes)
            pieces += [layer["attn.out.weight"], layer["moe.gate.weight"]]
            pieces += [layer["moe.experts.up.weight"], layer["moe.experts.down.weight"]]
            pieces += [layer["norm1.weight"], layer["norm2.weight"]]
        return pieces

    theirs = [model.model.embed_tokens.weight, model.model.norm.weight, model.lm_head.weight]
    for block in model.model.layers:
        attn, experts = block.self_attn, block.mlp.experts
        theirs += [attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight, attn.o_proj.weight]
        theirs += [block.mlp.gate.weight, experts.gate_up_proj, experts.down_proj]
        theirs += [block.input_layernorm.weight, block.post_attention_layernorm.weight]
    grads = torch.autograd.grad(out.lm_loss, list(params.values()), retain_graph=True)
    pieces = check.copy_into(
        list(zip(theirs, ours(params), strict=True)), ours(dict(zip(params, grads, strict=True)))
    )
    check.compare("Mixtral", model, pieces, arrays, out, check.SINGLE_INSIDE)
