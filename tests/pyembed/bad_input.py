"""Every public call refuses what it cannot use: the type of the exception, and a message that names
the argument, the value and what is allowed."""

import os

import small
from harness import case, main, raises, scratch

import _fmoe
import fmoe

GPT = {"vocab_size": 256, "n_layer": 2, "d_model": 16, "n_head": 2, "seq_len": 16}


def gpt(**changes):
    return lambda: fmoe.GPT(**{**GPT, **changes})


def moe(**changes):
    return lambda: fmoe.MoE(**{"num_experts": 4, "d_hidden": 8, **changes})


@case
def gpt_arguments() -> None:
    raises(
        TypeError, lambda: fmoe.GPT(**dict(GPT, vocab_size="many")), "vocab_size", "'many'", "int"
    )
    raises(TypeError, lambda: fmoe.GPT(n_layer=2), "vocab_size", "missing")
    raises(TypeError, gpt(vocab_sise=3), "vocab_sise", "vocab_size")
    raises(TypeError, lambda: fmoe.GPT(256), "at most 0")
    raises(TypeError, gpt(bias=1), "bias", "True or False")
    raises(TypeError, gpt(dropout="high"), "dropout", "'high'", "number")
    raises(TypeError, gpt(moe="yes"), "moe", "'yes'", "MoE")
    raises(TypeError, gpt(mesh=3), "mesh", "int", "Mesh")
    raises(TypeError, gpt(n_layer=2.0), "n_layer", "2.0", "int")
    raises(TypeError, gpt(n_layer=True), "n_layer", "True", "int")
    raises(ValueError, gpt(vocab_size=0), "vocab_size=0", "1")
    raises(ValueError, gpt(n_layer=10**30), "n_layer", "65536")
    raises(ValueError, gpt(dropout=1.0), "dropout=1.0", "[0, 1)")
    raises(ValueError, gpt(dropout=float("nan")), "dropout=nan")
    raises(ValueError, gpt(norm="batchnorm"), "norm", "'batchnorm'", "layernorm", "rmsnorm")
    raises(ValueError, gpt(activation="tanh"), "activation", "'tanh'", "gelu", "swiglu")
    raises(ValueError, gpt(dtype="float16"), "dtype", "'float16'", "bfloat16")
    raises(ValueError, gpt(recompute="all"), "recompute", "'all'", "none", "block")
    raises(ValueError, gpt(n_head=3), "n_head", "3", "d_model", "16")
    raises(ValueError, gpt(n_kv_head=3, n_head=4), "n_kv_head", "3", "n_head", "4")
    raises(ValueError, gpt(n_head=16, position="rope"), "rope", "1")
    raises(ValueError, gpt(norm_eps=0.0), "norm_eps=0.0", "(0, 1]")
    raises(ValueError, gpt(moe=fmoe.MoE(num_experts=2, d_hidden=8, every=[5])), "5", "n_layer")


@case
def moe_arguments() -> None:
    raises(ValueError, moe(gate="best"), "gate", "'best'", "naive", "gshard", "switch")
    raises(TypeError, moe(gate=3), "gate", "3", "Gate")
    raises(ValueError, moe(gate="switch", top_k=2), "top_k", "2", "switch", "1")
    raises(ValueError, moe(gate="naive", top_k=5), "top_k", "5", "num_experts", "4")
    raises(ValueError, moe(top_k=0), "top_k=0")
    raises(ValueError, moe(num_experts=0), "num_experts=0")
    raises(ValueError, moe(capacity_factor=0), "capacity_factor=0", "None")
    raises(ValueError, moe(capacity_factor=-1.5), "capacity_factor=-1.5", "above 0")
    raises(ValueError, moe(drop_policy="random"), "drop_policy", "'random'", "position", "score")
    raises(ValueError, moe(drop_policy="score"), "drop_policy", "capacity_scope", "global")
    raises(ValueError, moe(jitter=1.0), "jitter=1.0", "[0, 1)")
    raises(ValueError, moe(jitter=0.1), "jitter", "0.1", "gshard", "switch")
    raises(ValueError, moe(gate="naive", second_policy="all"), "second_policy", "naive", "gshard")
    moe(gate="naive", second_policy="random", jitter=0.0)()
    raises(ValueError, moe(scale=0.0), "scale=0.0", "above 0")
    raises(ValueError, moe(every=0), "every=0")
    raises(ValueError, moe(every="two"), "every='two'")
    raises(ValueError, moe(every=[-1]), "every=[-1]")
    few = fmoe.MoE(num_experts=4, d_hidden=8, every=9)
    raises(ValueError, lambda: small.model(moe=few), "every = 9", "n_layer = 2")
    raises(NotImplementedError, moe(dispatch="scheduled"), "dispatch='scheduled'", "not there yet")
    raises(NotImplementedError, moe(top_groups=2), "top_groups", "not there yet")
    raises(ValueError, moe(dispatch="by hand"), "dispatch='by hand'", "alltoall")
    raises(ValueError, moe(aux_loss_weight=float("inf")), "aux_loss_weight=inf")
    assert moe(capacity_factor=float("inf"), dispatch="alltoall")().capacity_factor > 1e300
    raises(TypeError, lambda: fmoe.MoELayer(d_model=8, moe=None), "moe", "MoE")
    raises(ValueError, lambda: fmoe.Mesh(tp=0), "tp=0")
    raises(ValueError, lambda: fmoe.Mesh(ep=2), "ep", "2")


@case
def tokens() -> None:
    m = small.model()
    good, targets = small.batch()
    raises(ValueError, lambda: m([[0, 256]], [[0, 0]]), "tokens[0, 1]=256", "0 to 255")
    raises(ValueError, lambda: m([[0, -1]], [[0, 0]]), "tokens[0, 1]=-1")
    raises(ValueError, lambda: m([[0, 1]], [[0, -2]]), "targets[0, 1]=-2", "-1 to 255")
    raises(ValueError, lambda: m([[0.5]], [[0]]), "tokens", "integers")
    raises(ValueError, lambda: m([0, 1], [0, 1]), "tokens", "1 dimension", "[B, S]")
    raises(ValueError, lambda: m([[0, 1], [2]], [[0, 1], [2, 3]]), "tokens")
    raises(ValueError, lambda: m([[]], [[]]), "tokens")
    raises(TypeError, lambda: m("text", targets), "tokens", "str")
    raises(TypeError, lambda: m(good), "")
    raises(ValueError, lambda: m(good, [[0]]), "targets")
    raises(ValueError, lambda: m([[1] * 17], [[1] * 17]), "17", "16")
    raises(ValueError, lambda: m.logits([[1] * 17]), "17", "16")
    raises(ValueError, lambda: m.logits([[300]]), "300")
    if fmoe.device() == "cpu":
        raises(IndexError, lambda: m(fmoe.tensor([[999]]), fmoe.tensor([[0]])), "999")


@case
def generation() -> None:
    m = small.model()
    raises(TypeError, lambda: m.generate(), "tokens", "missing")
    raises(ValueError, lambda: m.generate([1], 0), "max_new_tokens=0")
    raises(ValueError, lambda: m.generate([1], temperature=-1.0), "temperature=-1.0")
    raises(ValueError, lambda: m.generate([1], top_k=0), "top_k=0", "None")
    raises(ValueError, lambda: m.generate([1], top_p=0.0), "top_p=0.0", "(0, 1]")
    raises(ValueError, lambda: m.generate([1], seed=-1), "seed=-1", "2**64")
    raises(ValueError, lambda: m.generate([]), "tokens")
    raises(ValueError, lambda: m.generate(b""), "tokens")
    raises(ValueError, lambda: m.generate([[1, 999]]), "999")


@case
def optimisers() -> None:
    m = small.model()
    raises(TypeError, lambda: fmoe.AdamW(m), "lr", "missing")
    raises(TypeError, lambda: fmoe.AdamW([1], lr=0.1), "list", "Module")
    raises(TypeError, lambda: fmoe.AdamW(m, 0.1), "at most 1")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=-1.0), "lr=-1.0")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=0.1, betas=(0.9, 1.0)), "betas=(0.9, 1.0)")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=0.1, betas=0.9), "betas=0.9")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=0.1, eps=0.0), "eps=0.0")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=0.1, clip_grad_norm=0.0), "clip_grad_norm=0.0")
    raises(ValueError, lambda: fmoe.AdamW(m, lr=0.1, micro_batches=0), "micro_batches=0")
    raises(TypeError, lambda: fmoe.AdamW(m, lr=0.1, schedule="cosine"), "schedule", "'cosine'")
    raises(ValueError, lambda: fmoe.SGD(m, lr=0.1, momentum=1.0), "momentum=1.0", "[0, 1)")
    raises(ValueError, lambda: fmoe.SGD(m, lr=0.1, nesterov=True), "nesterov", "momentum")
    raises(ValueError, lambda: fmoe.AdamW(fmoe.Module(), lr=0.1), "no parameters")
    raises(ValueError, lambda: fmoe.cosine(warmup=10, total=5), "total", "5", "10")
    raises(ValueError, lambda: fmoe.cosine(warmup=-1, total=5), "warmup=-1")
    raises(ValueError, lambda: fmoe.cosine(total=5, final=2.0), "final=2.0", "[0, 1]")
    raises(ValueError, lambda: fmoe.wsd(total=10, decay=11), "decay", "11")
    raises(ValueError, lambda: fmoe.cosine(total=5)(0), "step=0")
    opt = fmoe.AdamW(m, lr=0.1)
    raises(ValueError, lambda: setattr(opt, "steps", -1), "steps=-1")
    raises(ValueError, lambda: setattr(opt, "lr", -1.0), "lr=-1.0")


@case
def data() -> None:
    raises(TypeError, lambda: fmoe.ByteDataset(3), "path", "3")
    raises(OSError, lambda: fmoe.ByteDataset("/nowhere/at/all"), "/nowhere/at/all")
    with scratch() as folder:
        open(os.path.join(folder, "empty"), "w").close()
        raises(ValueError, lambda: fmoe.ByteDataset(os.path.join(folder, "empty")), "byte")
        d = fmoe.ByteDataset(small.write_text(folder))
        raises(IndexError, lambda: d.read(len(d), 1), str(len(d)))

        def load(**k):
            return lambda: fmoe.DataLoader(d, **{"batch_size": 4, "seq_len": 8, **k})

        raises(TypeError, lambda: fmoe.DataLoader([1], batch_size=1, seq_len=1), "data", "dataset")
        raises(ValueError, load(batch_size=0), "batch_size=0")
        raises(ValueError, load(micro_batches=3), "batch_size", "4", "3", "1")
        raises(ValueError, load(split="dev"), "split", "'dev'", "train", "valid", "test")
        raises(ValueError, load(split="test"), "split")
        raises(ValueError, load(split_ratio=(0.9, 0.2)), "split_ratio=(0.9, 0.2)", "1")
        raises(ValueError, load(split_ratio=(-0.5,)), "split_ratio=(-0.5,)")
        raises(ValueError, load(seq_len=1 << 20), "sample")
        loader = load()()
        raises(ValueError, lambda: setattr(loader, "position", -1), "position=-1")


@case
def tensors() -> None:
    raises(TypeError, lambda: fmoe.tensor("abc"), "array", "str")
    raises(TypeError, lambda: fmoe.tensor([1, "a"]), "array", "'a'")
    raises(ValueError, lambda: fmoe.tensor([[1], [1, 2]]), "array", "rows")
    raises(ValueError, lambda: fmoe.tensor([[[[[[1]]]]]]), "6 dimensions", "5")
    raises(ValueError, lambda: fmoe.tensor([1], dtype="float16"), "dtype", "'float16'")
    raises(ValueError, lambda: fmoe.tensor([1], requires_grad=True), "requires_grad", "int32")
    raises(ValueError, lambda: fmoe.tensor([0.5], dtype="int32"), "integers")
    t = fmoe.tensor([1.0, 2.0])
    raises(ValueError, lambda: t.copy_([1.0]), "copy_", "1 elements", "[2] float32")
    raises(ValueError, lambda: float(t), "2")
    raises(TypeError, lambda: t + "1", "")
    raises(ValueError, t.backward, "[2]", "gradient")
    raises(RuntimeError, fmoe.tensor([1.0]).backward, "backward")
    raises(TypeError, lambda: setattr(t, "requires_grad", 1), "requires_grad")


@case
def operations() -> None:
    x, w = fmoe.tensor([[1.0, 2.0]]), fmoe.tensor([[1.0, 2.0, 3.0]])
    raises(ValueError, lambda: fmoe.add(x, w), "add")
    raises(TypeError, lambda: fmoe.add(x, 3), "add", "b=3", "Tensor")
    raises(TypeError, lambda: fmoe.add(x), "b", "missing")
    raises(TypeError, lambda: fmoe.add(x, x, x), "at most 2")
    raises(TypeError, lambda: fmoe.add(x, x, a=x), "a is given twice")
    raises(ValueError, lambda: fmoe.linear(x, w), "linear")
    raises(ValueError, lambda: fmoe.linear(x, x, activation="swiglu"), "swiglu")
    raises(ValueError, lambda: fmoe.activation(x, "tanh"), "kind", "'tanh'")
    raises(ValueError, lambda: fmoe.dropout(x, 1.0, name="d"), "p=1.0", "[0, 1)")
    raises(TypeError, lambda: fmoe.dropout(x, 0.5), "name", "missing")
    raises(ValueError, lambda: fmoe.reshape(x, [3]), "reshape")
    raises(ValueError, lambda: fmoe.split(x, [1, 2], axis=1), "sizes=[1, 2]", "2")
    raises(ValueError, lambda: fmoe.cat([]), "tensors=[]")
    raises(ValueError, lambda: fmoe.cat([x, 3]), "tensors")
    raises(ValueError, lambda: fmoe.top_k(x, 3), "3")
    raises(ValueError, lambda: fmoe.all_reduce(x, group="all"), "group", "'all'", "dp")
    raises(ValueError, lambda: fmoe.all_to_all(x, [1, 1]), "counts", "2", "1")
    raises(TypeError, lambda: fmoe.moe_unpermute(x, None), "map", "MoEMap")
    raises(TypeError, lambda: fmoe.Parameter(), "shape", "missing")
    raises(ValueError, lambda: fmoe.Parameter([0]), "shape=[0]")
    raises(ValueError, lambda: fmoe.Parameter([2], shard="tp"), "shard='tp'", "None")
    raises(ValueError, lambda: fmoe.Parameter([2], init=(0.0, -1.0)), "init=(0.0, -1.0)")
    raises(ValueError, lambda: fmoe.manual_seed(-1), "seed=-1")
    raises(ValueError, lambda: fmoe.set_device("tpu"), "name='tpu'", "cpu", "cuda")
    raises(ValueError, lambda: _fmoe.measure_peak("int8"), "dtype='int8'")


@case
def checkpoints() -> None:
    with scratch() as folder:
        m = small.model()
        ckpt = fmoe.Checkpointer(os.path.join(folder, "run"))
        assert ckpt.load(model=m) is None
        raises(ValueError, lambda: ckpt.save(1, model=m, extra={1, 2}), "extra={1, 2}", "JSON")
        raises(ValueError, lambda: ckpt.save(1, model=m, extra=float("inf")), "extra=inf")
        raises(ValueError, lambda: ckpt.save(-1, model=m), "step=-1")
        raises(TypeError, lambda: ckpt.save(1, model=3), "model", "int")
        raises(TypeError, lambda: ckpt.save(1, model=m, optimizer=3), "optimizer=3")
        raises(ValueError, lambda: ckpt.load(model=m, on_corrupt="ignore"), "'ignore'", "older")
        raises(ValueError, lambda: fmoe.Checkpointer(folder, keep_last=0), "keep_last=0")
        raises(fmoe.CheckpointError, lambda: fmoe.checkpoint_info(folder + "/none"), "none")
        ckpt.save(1, model=m)
        other = small.model(d_model=32)
        raises(fmoe.CheckpointError, lambda: ckpt.load(model=other), "embed.token")
        more = small.model(tie_embeddings=False)
        raises(TypeError, lambda: ckpt.load(model=None), "model=None", "GPT")
        raises(fmoe.CheckpointError, lambda: ckpt.load(model=more), "head.weight")


@case
def trainer() -> None:
    with scratch() as folder:
        d = fmoe.ByteDataset(small.write_text(folder))
        loader = fmoe.DataLoader(d, batch_size=2, seq_len=8, micro_batches=2)
        m = small.model()

        def make(opt=None, **k):
            return lambda: fmoe.Trainer(m, opt or fmoe.SGD(m, lr=0.1), loader, **k)

        raises(ValueError, make(), "micro_batches=1", "micro_batches=2")
        two = fmoe.SGD(m, lr=0.1, micro_batches=2)
        raises(ValueError, make(two, log_every=0), "log_every=0")
        raises(ValueError, make(two, save_every=0), "save_every=0", "None")
        raises(ValueError, make(two, max_skipped_steps=-1), "max_skipped_steps=-1")
        raises(RuntimeError, lambda: make(two)().evaluate(), "eval_loader")
        stranger = fmoe.SGD(small.model(), lr=0.1, micro_batches=2)
        raises(ValueError, make(stranger), "optimizer", "another model")
        raises(ValueError, make(two, metrics=folder), "metrics", "folder")
        raises(ValueError, make(two, save_every=5), "save_every=5", "checkpointer")
        raises(ValueError, make(two, eval_every=5), "eval_every=5", "eval_loader")
        other = fmoe.DataLoader(d, batch_size=2, seq_len=8, split="valid", split_ratio=(0.5, 0.5))
        raises(ValueError, make(two, eval_loader=other), "(0.5, 1.0)", "(0.0, 0.98)")
        huge = fmoe.DataLoader(d, batch_size=1 << 26, seq_len=8, micro_batches=2)
        raises(
            MemoryError,
            lambda: fmoe.Trainer(m, two, huge).fit(1),
            "a step needs",
            "batch_size",
            "activations",
        )
        raises(ValueError, lambda: make(two)().fit("5"), "steps='5'")
        narrow = small.model(vocab_size=100)
        raises(
            ValueError,
            lambda: fmoe.Trainer(narrow, fmoe.SGD(narrow, lr=0.1, micro_batches=2), loader),
            "vocab_size=100",
            "256",
        )


main()
