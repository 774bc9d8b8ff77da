"""The compiled part of fmoe, for type checkers. tests/pyembed/stubs.py compares it with the module;
the docstrings are the module's own (help(fmoe.GPT))."""

import sys
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, overload

from typing_extensions import Self

from fmoe.gate import Gate
from fmoe.module import Module

# Numbers: a Tensor, a NumPy array or any other buffer, a number, a (nested) sequence of numbers.
Array = Any

version: str

class AdamW(Optimizer):
    def __init__(
        self,
        model: GPT | Module | MoELayer,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-08,
        weight_decay: float = 0.1,
        clip_grad_norm: float | None = 1.0,
        micro_batches: int = 1,
        schedule: Schedule | None = None,
    ) -> None: ...

class ByteDataset:
    def __init__(
        self, path: str | PathLike[str], *, pattern: str | None = None, exclude: str | None = None
    ) -> None: ...
    def __len__(self) -> int: ...
    def read(self, start: int, n: int) -> Tensor: ...
    identity: str
    num_files: int
    path: str
    vocab_size: int

class CheckpointError(RuntimeError): ...

class CheckpointReader:
    def __init__(self, path: str | PathLike[str]) -> None: ...
    def compare(self, other: CheckpointReader, name: str) -> tuple[int, float, float]: ...
    def has(self, name: str, /) -> bool: ...
    def read(self, model: Any, optimizer: Optimizer | None = None) -> None: ...
    arrays: list[dict[str, Any]]
    manifest: str
    state: str
    step: int

class CheckpointStore:
    def __init__(
        self,
        root: str | PathLike[str],
        *,
        keep_last: int = 3,
        asynchronous: bool = True,
        compression: int = 0,
        mesh: Mesh | None = None,
    ) -> None: ...
    busy: bool
    def end(self) -> None: ...
    def loaded(self, step: int, newest: int) -> None: ...
    def poll(self) -> None: ...
    def save(
        self, step: int, *, model: Any, optimizer: Optimizer | None = None, state: str
    ) -> None: ...
    def wait(self) -> None: ...

class CommError(RuntimeError): ...

class DataLoader:
    def __init__(
        self,
        data: ByteDataset,
        *,
        batch_size: int,
        seq_len: int,
        split: str = "train",
        split_ratio: tuple[float, ...] = (0.98, 0.02),
        seed: int = 0,
        mesh: Mesh | None = None,
        micro_batches: int = 1,
    ) -> None: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
    def __next__(self) -> tuple[Tensor, Tensor]: ...
    def reset(self) -> None: ...
    batch_size: int
    dataset: ByteDataset
    epoch: int
    mesh: Mesh
    micro_batches: int
    num_samples: int
    position: int
    rows: int
    seed: int
    share: tuple[float, float]
    seq_len: int
    split: str
    valid: int

class GPT:
    def __call__(self, tokens: Array, targets: Array) -> GPTOutput: ...
    def __init__(
        self,
        *,
        vocab_size: int,
        n_layer: int,
        d_model: int,
        n_head: int,
        seq_len: int,
        d_hidden: int | None = None,
        n_kv_head: int | None = None,
        activation: str = "gelu",
        norm: str = "layernorm",
        norm_eps: float = 1e-05,
        position: str = "learned",
        rope_theta: float = 10000.0,
        dropout: float = 0.0,
        bias: bool = True,
        tie_embeddings: bool = True,
        moe: MoE | None = None,
        mesh: Mesh | None = None,
        dtype: str = "float32",
        recompute: str = "none",
    ) -> None: ...
    activation: str
    bias: bool
    d_hidden: int | None
    d_model: int
    dropout: float
    dtype: str
    def eval(self) -> Self: ...
    def flops_per_token(self, seq_len: int | None = None, *, measured: bool = False) -> float: ...
    @overload
    def generate(
        self,
        tokens: bytes,
        max_new_tokens: int = 100,
        *,
        temperature: float = 0.8,
        top_k: int | None = 40,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> bytes: ...
    @overload
    def generate(
        self,
        tokens: Array,
        max_new_tokens: int = 100,
        *,
        temperature: float = 0.8,
        top_k: int | None = 40,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Tensor: ...
    def logits(self, tokens: Array, /) -> Tensor: ...
    def memory_plan(self, batch_size: int, *, seq_len: int | None = None) -> dict[str, int]: ...
    mesh: Mesh | None
    moe: MoE | None
    def moe_stats(self) -> list[dict[str, Any]]: ...
    n_head: int
    n_kv_head: int | None
    n_layer: int
    def named_parameters(self) -> list[tuple[str, Parameter]]: ...
    norm: str
    norm_eps: float
    def num_active_parameters(self) -> int: ...
    def num_parameters(self) -> int: ...
    @classmethod
    def options(cls) -> tuple[dict[str, Any], ...]: ...
    position: str
    recompute: str
    rope_theta: float
    seq_len: int
    tie_embeddings: bool
    def train(self) -> Self: ...
    training: bool
    vocab_size: int

class GPTOutput:
    aux: dict[str, float]
    lm_loss: Tensor
    loss: Tensor
    num_targets: int

class Mesh:
    def __init__(
        self, *, tp: int = 1, pp: int = 1, ep: int = 1, etp: int = 1, zero: int = 1
    ) -> None: ...
    def comm_stats(self, *, reset: bool = False) -> list[dict[str, Any]]: ...
    dp: int
    dp_rank: int
    edp: int
    edp_rank: int
    ep: int
    ep_rank: int
    etp: int
    etp_rank: int
    pp: int
    pp_rank: int
    rank: int
    tp: int
    tp_rank: int
    world_size: int
    zero: int

class MoE:
    def __init__(
        self,
        *,
        num_experts: int,
        top_k: int | None = None,
        d_hidden: int,
        gate: str | type[Gate] = "gshard",
        activation: str = "gelu",
        capacity_factor: float | None = None,
        eval_capacity_factor: float | None = None,
        drop_policy: str = "position",
        capacity_scope: str = "global",
        aux_loss_weight: float = 0.01,
        aux_loss_scope: str = "global",
        z_loss_weight: float = 0.0,
        gate_bias: bool = False,
        scale: float = 1.0,
        num_shared_experts: int = 0,
        every: int | Sequence[int] = 2,
        renormalize: bool = False,
        jitter: float = 0.0,
        second_policy: str = "random",
        router_dtype: str = "float32",
        dispatch: str = "alltoall",
        shadow: bool = False,
        bias_update_rate: float = 0.0,
        num_groups: int = 1,
        top_groups: int = 1,
    ) -> None: ...
    activation: str
    aux_loss_scope: str
    aux_loss_weight: float
    bias_update_rate: float
    capacity_factor: float | None
    capacity_scope: str
    d_hidden: int
    dispatch: str
    drop_policy: str
    eval_capacity_factor: float | None
    every: int | Sequence[int]
    gate: str | type[Gate]
    gate_bias: bool
    jitter: float
    num_experts: int
    num_groups: int
    num_shared_experts: int
    @classmethod
    def options(cls) -> tuple[dict[str, Any], ...]: ...
    renormalize: bool
    router_dtype: str
    scale: float
    second_policy: str
    shadow: bool
    top_groups: int
    top_k: int | None
    z_loss_weight: float

class MoELayer:
    def __call__(self, x: Tensor, token_ids: Tensor | None = None) -> Tensor: ...
    def __init__(
        self,
        *,
        d_model: int,
        moe: MoE,
        mesh: Mesh | None = None,
        bias: bool = True,
        dtype: str = "float32",
    ) -> None: ...
    aux_loss: Tensor
    def eval(self) -> Self: ...
    mesh: Mesh | None
    moe: MoE
    def named_parameters(self) -> list[tuple[str, Parameter]]: ...
    def routing(self) -> Routing: ...
    def train(self) -> Self: ...
    training: bool

class MoEMap:
    counts: Tensor
    offsets: Tensor
    slot: Tensor
    source: Tensor

class Optimizer:
    initial_lr: float
    kind: str
    lr: float
    def memory(self) -> dict[str, int]: ...
    micro_batches: int
    moments: tuple[str, ...]
    schedule: Schedule
    def step(self, *, stop: int = 0) -> StepInfo: ...
    steps: int
    def trains(self, model: Any, /) -> bool: ...
    def zero_grad(self) -> None: ...

class Parameter(Tensor):
    def __init__(
        self,
        shape: Sequence[int],
        *,
        init: float | tuple[float, float] | Array | None = None,
        decay: bool = True,
        shard: None = None,
    ) -> None: ...
    def copy_(self, array: Array, /) -> Self: ...
    global_shape: tuple[int, ...]
    placement: dict[str, Any]

class Routing(tuple[Any, ...]):
    indices: Tensor
    scores: Tensor
    tokens_per_expert: Tensor

class RoutingLog:
    def __init__(self, models: Sequence[GPT | MoELayer], *, replay: bool = False) -> None: ...
    def add(self, layer: int, step: int, micro: int, forward: int, choices: Tensor) -> None: ...
    def detach(self) -> None: ...
    def entries(self) -> list[tuple[int, int, int, int, tuple[int, int, int], Tensor]]: ...

class SGD(Optimizer):
    def __init__(
        self,
        model: GPT | Module | MoELayer,
        *,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_grad_norm: float | None = None,
        micro_batches: int = 1,
        schedule: Schedule | None = None,
    ) -> None: ...

class Schedule:
    def __call__(self, step: int) -> float: ...
    def __init__(
        self,
        kind: str,
        *,
        warmup: int = 0,
        total: int = 0,
        decay: int = 0,
        final: float = 0.0,
        offset: bool = True,
    ) -> None: ...
    decay: int
    final: float
    kind: str
    offset: bool
    total: int
    warmup: int

class StepInfo(tuple[Any, ...]):
    grad_norm: float
    loss: float
    lr: float
    skipped: bool
    stop: int

class Tensor:
    def __len__(self) -> int: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __add__(self, other: Tensor | float) -> Tensor: ...
    def __radd__(self, other: float) -> Tensor: ...
    def __sub__(self, other: Tensor | float) -> Tensor: ...
    def __rsub__(self, other: float) -> Tensor: ...
    def __neg__(self) -> Tensor: ...
    def __truediv__(self, other: float) -> Tensor: ...
    def __mul__(self, other: Tensor | float) -> Tensor: ...
    def __rmul__(self, other: float) -> Tensor: ...
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
    def backward(self, grad: Array | None = None) -> None: ...
    def copy_(self, array: Array, /) -> Self: ...
    def detach(self) -> Tensor: ...
    dtype: str
    grad: Tensor | None
    def item(self) -> float: ...
    def numpy(self) -> Any: ...
    requires_grad: bool
    shape: tuple[int, ...]
    def tolist(self) -> Any: ...
    def zero_grad(self) -> None: ...

def activation(x: Tensor, kind: str = "gelu") -> Tensor: ...
def add(a: Tensor, b: Tensor) -> Tensor: ...
def after_step(callable: Any, /) -> None: ...
def all_gather(x: Tensor, group: str = "dp", *, mesh: Mesh | None = None) -> Tensor: ...
def all_reduce(x: Tensor, group: str = "dp", *, mesh: Mesh | None = None) -> Tensor: ...
def all_to_all(
    x: Tensor, counts: Sequence[int], *, group: str = "ep", mesh: Mesh | None = None
) -> tuple[Tensor, list[int]]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    n_head: int,
    n_kv_head: int | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor: ...
def agree(values: Sequence[float], op: str = "sum") -> list[float]: ...
def balance_loss(probs: Tensor, indices: Tensor) -> Tensor: ...
def broadcast_text(text: str | None, root: int = 0) -> str: ...
def calls() -> int: ...
def cast(x: Tensor, dtype: str) -> Tensor: ...
def cat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor: ...
def checkpoint_list(path: str | PathLike[str]) -> list[int]: ...
def checkpoint_merge(path: str | PathLike[str], root: str | PathLike[str]) -> None: ...
def checkpoint_verify(path: str | PathLike[str]) -> None: ...
def cross_entropy(logits: Tensor, target: Tensor) -> Tensor: ...
def device() -> str: ...
def device_info() -> dict[str, Any]: ...
def dry_run() -> bool: ...
def dropout(x: Tensor, p: float, *, name: str) -> Tensor: ...
def fail_at_exit() -> None: ...
def embedding(table: Tensor, ids: Tensor) -> Tensor: ...
def gather_cols(x: Tensor, indices: Tensor) -> Tensor: ...
def grad_enable(on: bool, /) -> bool: ...
def grouped_linear(
    x: Tensor, w: Tensor, b: Tensor | None, offsets: Tensor, *, activation: str = "none"
) -> Tensor: ...
def layer_norm(x: Tensor, w: Tensor, b: Tensor | None = None, *, eps: float = 1e-05) -> Tensor: ...
def linear(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, activation: str = "none"
) -> Tensor: ...
def manual_seed(seed: int) -> None: ...
def matmul(a: Tensor, b: Tensor, *, trans_b: bool = False) -> Tensor: ...
def measure_peak(dtype: str = "float32") -> float: ...
def memory() -> dict[str, int]: ...
def meshes() -> list[Mesh]: ...
def moe_permute(x: Tensor, indices: Tensor, num_experts: int) -> tuple[Tensor, MoEMap]: ...
def moe_unpermute(z: Tensor, map: MoEMap, scores: Tensor | None = None) -> Tensor: ...
def mul(a: Tensor, b: Tensor) -> Tensor: ...
def op_times_start() -> None: ...
def op_times_stop() -> list[tuple[str, int, float]]: ...
def rank() -> int: ...
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor: ...
def rms_norm(x: Tensor, w: Tensor, *, eps: float = 1e-05) -> Tensor: ...
def rope(
    x: Tensor, heads: int, d_head: int, *, theta: float = 10000.0, offset: int = 0
) -> Tensor: ...
def seed() -> int: ...
def set_device(name: str, /) -> None: ...
def softmax(x: Tensor) -> Tensor: ...
def split(x: Tensor, sizes: Sequence[int], axis: int = 0) -> list[Tensor]: ...
def sum(x: Tensor) -> Tensor: ...
def tensor(array: Array, *, requires_grad: bool = False, dtype: str = "auto") -> Tensor: ...
def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]: ...
def world_size() -> int: ...
def z_loss(logits: Tensor) -> Tensor: ...
