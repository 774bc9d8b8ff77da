"""fmoe: pretraining of Mixture-of-Experts language models. Runs inside the program `train`."""

try:
    import _fmoe
except ImportError as error:  # the plain interpreter has no such built-in module
    raise ImportError(
        "fmoe is part of the program `train`: run `train script.py`, not `python script.py` "
        "(bazel run //:train -- script.py)"
    ) from error

from _fmoe import (
    GPT,
    SGD,
    AdamW,
    ByteDataset,
    CheckpointError,
    CommError,
    DataLoader,
    GPTOutput,
    Mesh,
    MoE,
    MoELayer,
    MoEMap,
    Optimizer,
    Parameter,
    Routing,
    RoutingLog,
    Schedule,
    StepInfo,
    Tensor,
    activation,
    add,
    all_gather,
    all_reduce,
    all_to_all,
    attention,
    balance_loss,
    cast,
    cat,
    cross_entropy,
    device,
    device_info,
    dropout,
    embedding,
    gather_cols,
    grouped_linear,
    layer_norm,
    manual_seed,
    matmul,
    memory,
    moe_permute,
    moe_unpermute,
    mul,
    rank,
    reshape,
    rms_norm,
    rope,
    set_device,
    softmax,
    split,
    sum,
    tensor,
    top_k,
    world_size,
    z_loss,
)

from . import _children
from ._overload import linear
from .checkpointer import Checkpointer, checkpoint_info
from .gate import Gate
from .module import Module, no_grad
from .routing import read_routing, record, replay
from .schedules import constant, cosine, inverse_sqrt, wsd
from .trainer import Trainer

__version__: str = _fmoe.version
_children.start_train()
if _fmoe.dry_run():
    from . import dry_run

    dry_run.begin()

__all__ = [
    "GPT",
    "SGD",
    "AdamW",
    "ByteDataset",
    "CheckpointError",
    "Checkpointer",
    "CommError",
    "DataLoader",
    "GPTOutput",
    "Gate",
    "Mesh",
    "MoE",
    "MoELayer",
    "MoEMap",
    "Module",
    "Optimizer",
    "Parameter",
    "Routing",
    "RoutingLog",
    "Schedule",
    "StepInfo",
    "Tensor",
    "Trainer",
    "activation",
    "add",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "attention",
    "balance_loss",
    "cast",
    "cat",
    "checkpoint_info",
    "constant",
    "cosine",
    "cross_entropy",
    "device",
    "device_info",
    "dropout",
    "embedding",
    "gather_cols",
    "grouped_linear",
    "inverse_sqrt",
    "layer_norm",
    "linear",
    "manual_seed",
    "matmul",
    "memory",
    "moe_permute",
    "moe_unpermute",
    "mul",
    "no_grad",
    "rank",
    "read_routing",
    "record",
    "replay",
    "reshape",
    "rms_norm",
    "rope",
    "set_device",
    "softmax",
    "split",
    "sum",
    "tensor",
    "top_k",
    "world_size",
    "wsd",
    "z_loss",
]
