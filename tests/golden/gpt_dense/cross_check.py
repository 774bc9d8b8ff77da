"""The same models in `transformers`: GPT-2, and Llama with the biases off."""

from collections.abc import Callable

from torch import Tensor

from oracle import compare_transformers as check
from oracle.config import GPTConfig
from oracle.gpt import Output
from oracle.gpt_case import Arrays

Params = dict[str, Tensor]


def gpt2(config: GPTConfig, arrays: Arrays, out: Output, params: Params) -> None:
    if not check.importable():
        return
    import transformers

    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.seq_len,
            n_embd=config.d_model,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.hidden,
            bos_token_id=None,
            eos_token_id=None,
            activation_function="gelu_new",
            layer_norm_epsilon=config.norm_eps,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    ).double()
    body = model.transformer
    where: list[tuple[Tensor, str, bool]] = [
        (body.wte.weight, "embed.token", False),
        (body.wpe.weight, "embed.position", False),
        (body.ln_f.weight, "norm.weight", False),
        (body.ln_f.bias, "norm.bias", False),
    ]
    for i, block in enumerate(body.h):
        modules = {
            "norm1": (block.ln_1, False),
            "norm2": (block.ln_2, False),
            "attn.qkv": (block.attn.c_attn, True),  # their Conv1D holds the transpose
            "attn.out": (block.attn.c_proj, True),
            "mlp.up": (block.mlp.c_fc, True),
            "mlp.down": (block.mlp.c_proj, True),
        }
        for name, (module, transposed) in modules.items():
            where.append((module.weight, f"layers.{i}.{name}.weight", transposed))
            where.append((module.bias, f"layers.{i}.{name}.bias", False))
    turn = {True: lambda t: t.T, False: lambda t: t}
    pieces = check.copy_into(
        [(theirs, turn[t](params[name])) for theirs, name, t in where],
        [turn[t](params[name].grad) for _, name, t in where],
    )
    check.compare("GPT-2", model, pieces, arrays, out, check.DOUBLE)


def llama(config: GPTConfig, arrays: Arrays, out: Output, params: Params) -> None:
    if not check.importable():
        return
    import transformers

    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.hidden,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.seq_len,
            rms_norm_eps=config.norm_eps,
            hidden_act="silu",
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    ).double()
    kv = config.kv_heads * config.d_head
    sizes = [config.n_head * config.d_head, kv, kv]

    def pieces_of(get: Callable[[str], Tensor]) -> list[Tensor]:
        """Ours in their order; `get` picks a value or a gradient by name."""
        ours = [get("embed.token"), get("norm.weight"), get("head.weight")]
        for i in range(config.n_layer):
            layer = f"layers.{i}."
            ours += get(layer + "attn.qkv.weight").split(sizes)
            ours += [get(layer + "attn.out.weight")]
            ours += get(layer + "mlp.up.weight").chunk(2)
            ours += [get(layer + name + ".weight") for name in ("mlp.down", "norm1", "norm2")]
        return ours

    theirs = [model.model.embed_tokens.weight, model.model.norm.weight, model.lm_head.weight]
    for block in model.model.layers:
        attn, mlp = block.self_attn, block.mlp
        theirs += [attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight, attn.o_proj.weight]
        theirs += [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight]
        theirs += [block.input_layernorm.weight, block.post_attention_layernorm.weight]
    pieces = check.copy_into(
        list(zip(theirs, pieces_of(params.__getitem__), strict=True)),
        pieces_of(lambda name: params[name].grad),
    )
    check.compare("Llama", model, pieces, arrays, out, check.SINGLE_INSIDE)
