"""Golden files of dense GPTs: logits, losses and every gradient. See README.md."""

import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import cross_check

from oracle.command import write_all
from oracle.config import GPTConfig
from oracle.gpt_case import Arrays, gpt_case

SMALL = functools.partial(GPTConfig, vocab_size=61, n_layer=2, d_model=24, n_head=3, seq_len=17)


def layernorm_learned_gelu() -> Arrays:
    config = SMALL()
    arrays, out, params = gpt_case(config, None, seed=101)
    cross_check.gpt2(config, arrays, out, params)
    return arrays


def gelu_erf_short() -> Arrays:
    """Fewer tokens than seq_len: the last rows of embed.position have no gradient."""
    return gpt_case(SMALL(activation="gelu_erf"), None, seed=102, seq=11)[0]


def rmsnorm_rope_swiglu_gqa() -> Arrays:
    config = SMALL(
        n_kv_head=1,
        activation="swiglu",
        norm="rmsnorm",
        position="rope",
        bias=False,
        tie_embeddings=False,
    )
    arrays, out, params = gpt_case(config, None, seed=103)
    cross_check.llama(config, arrays, out, params)
    return arrays


def rmsnorm_rope_geglu_gqa_bias() -> Arrays:
    config = SMALL(
        n_head=4,
        n_kv_head=2,
        d_hidden=37,
        activation="geglu",
        norm="rmsnorm",
        norm_eps=1e-3,
        position="rope",
        rope_theta=100.0,
    )
    return gpt_case(config, None, seed=104)[0]


if __name__ == "__main__":
    write_all(
        __doc__,
        {
            case.__name__: case
            for case in (
                layernorm_learned_gelu,
                gelu_erf_short,
                rmsnorm_rope_swiglu_gqa,
                rmsnorm_rope_geglu_gqa_bias,
            )
        },
    )
