"""The public calls do what their docstrings say."""

import math
import struct
import threading
from array import array

import small
from harness import Skip, case, close, main, raises, scratch

import _fmoe
import fmoe


def numpy():
    try:
        import numpy
    except ImportError as error:
        raise Skip(f"numpy: {error}") from None
    return numpy


@case
def names() -> None:
    assert fmoe.rank() == 0 and fmoe.world_size() == 1
    assert fmoe.device() in ("cpu", "cuda:0")
    info = fmoe.device_info()
    assert info["threads"] >= 1 and info["model"]
    for name in ("TransformerXL", "TokenDataset", "HDF5Dataset", "StreamLoader", "profile"):
        assert not hasattr(fmoe, name), f"{name} is promised and not there"


@case
def tensors_from_everything() -> None:
    for values in ([[1.0, 2.0], [3.0, 4.0]], ((1.0, 2.0), (3.0, 4.0))):
        t = fmoe.tensor(values)
        assert t.shape == (2, 2) and t.dtype == "float32" and len(t) == 2
        assert t.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert fmoe.tensor(array("d", [1.5, 2.5])).tolist() == [1.5, 2.5]
    assert fmoe.tensor(array("h", [-3, 4])).dtype == "int32"
    assert fmoe.tensor(array("q", [-3, 1 << 40])).tolist() == [-3, 1 << 40]
    assert fmoe.tensor(b"ab").tolist() == [97, 98]
    assert fmoe.tensor([1, 1 << 40]).dtype == "int64"
    assert fmoe.tensor([1, 2], dtype="float32").tolist() == [1.0, 2.0]
    assert fmoe.tensor(2.5).item() == 2.5 and float(fmoe.tensor([3])) == 3.0
    assert fmoe.tensor([7]).item() == 7
    half = fmoe.tensor([1.0, 1.0 / 3.0], dtype="bfloat16")
    assert half.dtype == "bfloat16"
    close(half.tolist(), [1.0, 1.0 / 3.0], 2.0**-8)
    # every second column of a matrix: strides
    grid = memoryview(struct.pack("4i", 1, 2, 3, 4)).cast("i")[::2]
    assert fmoe.tensor(grid).tolist() == [1, 3]
    nested = fmoe.tensor([[[1.0]], [[2.0]]])
    assert nested.shape == (2, 1, 1)


@case
def buffers() -> None:
    if fmoe.device() != "cpu":
        raises(BufferError, lambda: memoryview(fmoe.tensor([1.0])), "numpy()")
        raise Skip("views are of CPU tensors")
    t = fmoe.tensor([[1.0, 2.0, 3.0]])
    view = memoryview(t)
    assert view.shape == (1, 3) and view.format == "f" and not view.readonly
    view[0, 1] = 9.0
    assert t.tolist() == [[1.0, 9.0, 3.0]]
    assert memoryview(fmoe.tensor([1, 2])).format == "i"
    del t
    assert view[0, 2] == 3.0  # the view keeps the memory
    x = fmoe.tensor([1.0], requires_grad=True)
    result = memoryview(fmoe.add(x, x))
    assert result.readonly and result[0] == 2.0
    raises(BufferError, lambda: memoryview(fmoe.tensor([1.0], dtype="bfloat16")), "bfloat16")


@case
def numpy_views() -> None:
    np = numpy()
    t = fmoe.tensor(np.arange(6, dtype=np.float64).reshape(2, 3)[:, ::2])
    assert t.tolist() == [[0.0, 2.0], [3.0, 5.0]]
    copy = t.numpy()
    copy[0, 0] = 5
    assert t.tolist()[0][0] == 0.0
    half = fmoe.tensor([1.0, 2.0], dtype="bfloat16")
    assert half.numpy().dtype == np.float32
    raises(TypeError, lambda: np.asarray(half), "bfloat16")
    if fmoe.device() == "cpu":
        view = np.asarray(t)
        view[1, 1] = 7
        assert t.tolist()[1][1] == 7.0
    assert t.__dlpack_device__() == ((1, 0) if fmoe.device() == "cpu" else (2, 0))
    t.__dlpack__()  # a capsule that nobody takes must give its tensor back


@case
def numpy_from_dlpack() -> None:
    np = numpy()
    if not hasattr(np, "from_dlpack"):
        raise Skip(f"numpy {np.__version__} has no from_dlpack; 1.22 has")
    if fmoe.device() != "cpu":
        raise Skip("numpy takes CPU tensors")
    t = fmoe.tensor([[1.0, 2.0]])
    assert np.shares_memory(np.from_dlpack(t), np.asarray(t))


@case
def tensor_methods() -> None:
    t = fmoe.tensor([1.0, 2.0], requires_grad=True)
    assert t.requires_grad and t.grad is None
    y = t * 3.0
    raises(RuntimeError, lambda: y.copy_([1.0, 1.0]), "copy_")
    y.backward([1.0, 10.0])
    assert t.grad.tolist() == [3.0, 30.0]
    (2.0 * t).backward([1.0, 1.0])
    assert t.grad.tolist() == [5.0, 32.0]  # gradients add up
    t.zero_grad()
    assert t.grad.tolist() == [0.0, 0.0]
    assert not t.detach().requires_grad
    assert t.copy_([5.0, 6.0]) is t and t.tolist() == [5.0, 6.0]
    (t + t).backward([1.0, 1.0])
    assert t.grad.tolist() == [2.0, 2.0]
    assert "[2] float32" in repr(t) and "Tensor" in repr(t)
    with fmoe.no_grad():
        assert not (t + t).requires_grad
    assert (t + t).requires_grad


@case
def linear_is_two_things() -> None:
    x = fmoe.tensor([[1.0, 2.0]])
    w = fmoe.tensor([[3.0, 4.0]])
    assert fmoe.linear(x, w).tolist() == [[11.0]]
    assert fmoe.linear(x, w, fmoe.tensor([-12.0]), activation="relu").tolist() == [[0.0]]
    schedule = fmoe.linear(warmup=10, total=20)
    close([schedule(5), schedule(10), schedule(15), schedule(30)], [0.5, 1.0, 0.5, 0.0], 1e-12)


@case
def schedules() -> None:
    close([fmoe.constant()(1), fmoe.constant(4)(1)], [1.0, 0.25], 1e-12)
    cosine = fmoe.cosine(warmup=100, total=1000, final=0.1)
    close([cosine(50), cosine(100), cosine(550), cosine(1000)], [0.5, 1.0, 0.55, 0.1], 1e-9)
    close(fmoe.cosine(warmup=0, total=10, offset=False)(5), 0.5, 1e-9)
    wsd = fmoe.wsd(warmup=10, total=100, decay=20)
    close([wsd(50), wsd(80), wsd(90), wsd(100)], [1.0, 1.0, 0.5, 0.0], 1e-9)
    close(fmoe.inverse_sqrt(100)(400), 0.5, 1e-12)
    assert cosine.kind == "cosine" and cosine.total == 1000 and cosine.offset


@case
def gradients_by_differences() -> None:
    """A small network of many operations, differentiated by hand."""
    x = fmoe.tensor([[0.3, -0.7, 0.5, 0.1], [0.9, 0.2, -0.4, -0.6]])
    target = fmoe.tensor([2, 0])
    start = [[math.sin(3.0 * i + j) * 0.5 for j in range(4)] for i in range(4)]
    w = fmoe.tensor(start, requires_grad=True)
    gain = fmoe.tensor([1.0, 0.9, 1.1, 1.2], requires_grad=True)

    def loss() -> fmoe.Tensor:
        h = fmoe.layer_norm(fmoe.linear(x, w, activation="gelu"), gain)
        h = fmoe.cat([h, fmoe.softmax(fmoe.rms_norm(h, gain))], axis=1)
        a, b = fmoe.split(h, [3, 5], axis=1)
        q = fmoe.reshape(fmoe.cat([b, a], 1), [1, 2, 8])
        o = fmoe.attention(q, q, q, n_head=2)
        return fmoe.cross_entropy(fmoe.reshape(o, [2, -1]), target)

    loss().backward()
    got = w.grad.tolist()
    step = 2e-3
    for i in range(4):
        for j in range(4):
            sides = []
            for sign in (1, -1):
                moved = [row[:] for row in start]
                moved[i][j] += sign * step
                w.copy_(moved)
                sides.append(float(loss()))
            w.copy_(start)
            close(got[i][j], (sides[0] - sides[1]) / (2 * step), 2e-3)


@case
def embedding_and_dropout() -> None:
    table = fmoe.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = fmoe.embedding(table, fmoe.tensor([1, 1, 0]))
    assert y.tolist() == [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    y.backward([[1.0, 1.0]] * 3)
    assert table.grad.tolist() == [[1.0, 1.0], [2.0, 2.0]]
    ones = fmoe.tensor([[1.0] * 1000])
    fmoe.manual_seed(3)
    a = fmoe.dropout(ones, 0.25, name="here").tolist()
    assert a == fmoe.dropout(ones, 0.25, name="here").tolist()
    assert a != fmoe.dropout(ones, 0.25, name="there").tolist()
    dropped = a[0].count(0.0)
    assert 150 < dropped < 350, dropped
    close(max(a[0]), 1 / 0.75, 1e-6)


@case
def routing_operations() -> None:
    logits = fmoe.tensor([[0.1, 0.5, 0.3], [0.9, 0.9, 0.2]])
    values, indices = fmoe.top_k(logits, 2)
    assert indices.tolist() == [[1, 2], [0, 1]]  # ties go to the lower index
    close(values.tolist(), [[0.5, 0.3], [0.9, 0.9]], 1e-6)
    x = fmoe.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    rows, where = fmoe.moe_permute(x, fmoe.tensor([[1, 2], [0, -1]]), 3)
    assert rows.tolist() == [[3.0, 4.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]
    assert where.counts.tolist() == [1, 1, 1] and where.offsets.tolist() == [0, 1, 2, 3]
    w = fmoe.tensor([[[1.0, 0.0], [0.0, 1.0]]] * 3)
    same = fmoe.grouped_linear(rows, w, None, where.offsets)
    y = fmoe.moe_unpermute(same, where, fmoe.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert y.tolist() == x.tolist()
    y.backward([[1.0, 1.0], [1.0, 1.0]])
    close(x.grad.tolist(), [[1.0, 1.0], [1.0, 1.0]], 1e-6)


@case
def collectives_of_one() -> None:
    x = fmoe.tensor([[1.0], [2.0]], requires_grad=True)
    for y in (fmoe.all_reduce(x), fmoe.all_gather(x, group="world")):
        assert y.tolist() == [[1.0], [2.0]]
        y.backward([[1.0], [3.0]])
    y, counts = fmoe.all_to_all(x, [2], group="ep")
    assert y.tolist() == [[1.0], [2.0]] and counts == [2]
    y.backward([[1.0], [3.0]])
    assert x.grad.tolist() == [[3.0], [9.0]]


@case
def mesh_of_one() -> None:
    mesh = fmoe.Mesh()
    assert (mesh.tp, mesh.pp, mesh.ep, mesh.etp, mesh.dp, mesh.edp) == (1, 1, 1, 1, 1, 1)
    assert (mesh.rank, mesh.world_size, mesh.dp_rank, mesh.ep_rank) == (0, 1, 0, 0)


@case
def parameter_names_and_shapes() -> None:
    m = small.model()
    shapes = {name: p.global_shape for name, p in m.named_parameters()}
    assert shapes["embed.token"] == (256, 16) and shapes["embed.position"] == (16, 16)
    assert shapes["layers.0.attn.qkv.weight"] == (48, 16)
    assert shapes["layers.0.mlp.up.weight"] == (64, 16)
    assert shapes["layers.1.moe.gate.weight"] == (4, 16)
    assert shapes["layers.1.moe.experts.up.weight"] == (4, 24, 16)
    assert shapes["layers.1.moe.experts.down.bias"] == (4, 16)
    assert shapes["norm.weight"] == (16,) and "head.weight" not in shapes
    assert m.num_parameters() == sum(math.prod(shape) for shape in shapes.values())
    assert m.num_active_parameters() < m.num_parameters()
    untied = {n for n, _ in small.model(tie_embeddings=False).named_parameters()}
    assert "head.weight" in untied
    assert m.moe.num_experts == 4 and m.moe.top_k == 2 and m.mesh.dp == 1
    assert m.d_hidden == 64 and m.n_kv_head == 2 and m.recompute == "none"


@case
def parameters_are_views() -> None:
    m = small.model()
    p = dict(m.named_parameters())["norm.weight"]
    assert p.shape == (16,) and p.grad.tolist() == [0.0] * 16 and p.requires_grad
    assert p.placement == {"boxes": [((0,), (16,))], "replicas": "dp*tp"}
    expert = dict(m.named_parameters())["layers.1.moe.experts.up.bias"]
    assert expert.placement["replicas"] == "edp"
    p.copy_([2.0] * 16)
    assert dict(m.named_parameters())["norm.weight"].tolist() == [2.0] * 16
    del m
    assert p.tolist() == [2.0] * 16  # a parameter keeps its model
    half = small.model(dtype="bfloat16")
    q = dict(half.named_parameters())["norm.weight"]
    third = 1.0 / 3.0
    q.copy_([third] * 16)
    assert q.dtype == "bfloat16" and q.tolist() != [third] * 16
    close(q.tolist(), [third] * 16, 2.0**-8)


@case
def same_seed_same_model() -> None:
    tokens, targets = small.batch()
    a, b, c = small.model(), small.model(), small.model(seed=8)
    losses = [float(m(tokens, targets).loss) for m in (a, b, c)]
    assert losses[0] == losses[1] != losses[2]


@case
def inputs_of_every_kind() -> None:
    m = small.model(moe=fmoe.MoE(num_experts=4, d_hidden=24, second_policy="all"))
    tokens, targets = small.batch()
    want = float(m(tokens, targets).lm_loss)
    flat = array("q", [t for row in tokens for t in row])
    view = memoryview(flat).cast("B").cast("q", (2, small.SEQ_LEN))
    assert float(m(view, fmoe.tensor(targets)).lm_loss) == want
    assert float(m(fmoe.tensor(tokens), targets).lm_loss) == want
    assert math.isfinite(float(m([[1]], [[-1]]).loss))  # no valid target at all


@case
def output_adds_up() -> None:
    moe = fmoe.MoE(num_experts=4, d_hidden=24, aux_loss_weight=0.5, z_loss_weight=0.01)
    out = small.model(moe=moe)(*small.batch())
    assert set(out.aux) == {"balance", "z"}
    close(float(out.loss), float(out.lm_loss) + sum(out.aux.values()), 1e-6)
    sizes = {"vocab_size": 256, "n_layer": 1, "d_model": 16, "n_head": 2, "seq_len": small.SEQ_LEN}
    dense = fmoe.GPT(**sizes)(*small.batch())
    assert dense.aux == {} and float(dense.loss) == float(dense.lm_loss)


@case
def training_lowers_the_loss() -> None:
    for optimizer in (fmoe.AdamW, fmoe.SGD):
        m = small.model()
        opt = optimizer(m, lr=0.01 if optimizer is fmoe.AdamW else 0.5)
        losses = []
        for _ in range(8):
            m(*small.batch()).loss.backward()
            info = opt.step()
            losses.append(info.loss)
            assert info.grad_norm > 0 and not info.skipped and info.lr == opt.lr
        assert losses[-1] < losses[0] - 0.3, losses
        assert opt.steps == 8


@case
def micro_batches_are_a_mean() -> None:
    tokens, targets = small.batch(rows=4)
    moe = fmoe.MoE(num_experts=4, d_hidden=24, second_policy="all", aux_loss_weight=0.0)
    whole, parts = small.model(moe=moe), small.model(moe=moe)
    one = fmoe.SGD(whole, lr=0.1)
    whole(tokens, targets).loss.backward()
    want = one.step()
    two = fmoe.SGD(parts, lr=0.1, micro_batches=2)
    for half in (slice(0, 2), slice(2, 4)):
        parts(tokens[half], targets[half]).loss.backward()
    got = two.step()
    close([got.loss, got.grad_norm], [want.loss, want.grad_norm], 1e-5)
    a, b = small.weights(whole), small.weights(parts)
    for name in a:
        close(a[name], b[name], 1e-5)


@case
def steps_are_counted() -> None:
    m = small.model()
    opt = fmoe.AdamW(m, lr=1e-3, micro_batches=2)
    raises(RuntimeError, opt.step, "0 backwards", "2")
    m(*small.batch()).loss.backward()
    raises(RuntimeError, opt.step, "1 backward", "2")
    m(*small.batch()).loss.backward()
    raises(RuntimeError, m(*small.batch()).loss.backward, "micro_batches")
    opt.step()
    m(*small.batch()).loss.backward()
    opt.zero_grad()
    raises(RuntimeError, opt.step, "0 backwards")


@case
def few_crossings() -> None:
    """A step of the loop enters C fewer than 20 times."""
    with scratch() as folder:
        data = fmoe.ByteDataset(small.write_text(folder))
        loader = fmoe.DataLoader(data, batch_size=2, seq_len=small.SEQ_LEN)
        m = small.model()
        opt = fmoe.AdamW(m, lr=1e-3)
        trainer = fmoe.Trainer(m, opt, loader, log_every=1000)
        trainer.fit(1)
        before = _fmoe.calls()
        trainer._step(1000)
        assert 0 < _fmoe.calls() - before < 20, _fmoe.calls() - before


@case
def interpreter_is_free_while_we_compute() -> None:
    """Another Python thread runs during a forward."""
    m = small.model(d_model=256, n_head=4, seq_len=128, n_layer=4)
    tokens, targets = small.batch(rows=8, columns=128)
    counted, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            counted[0] += 1

    m(tokens, targets)
    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    batch = fmoe.tensor(tokens), fmoe.tensor(targets)
    m(*batch)
    after = counted[0]
    done.set()
    thread.join()
    assert after > before


@case
def two_threads_take_turns() -> None:
    """A context serves one thread at a time; what dies meanwhile is freed later."""
    m = small.model()
    tokens, targets = small.batch()
    want = float(m.eval()(tokens, targets).loss)
    wrong = []

    def work() -> None:
        for _ in range(20):
            x = fmoe.tensor([1.0] * 100)
            x = x + x
            if float(m(tokens, targets).loss) != want:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@case
def lifetimes() -> None:
    """Results outlive what made them."""
    for recompute in ("none", "block"):
        out = small.model(recompute=recompute)(*small.batch())  # the model has no other name
        out.loss.backward()
    opt = fmoe.AdamW(small.model(), lr=1e-3)
    assert opt.steps == 0
    layer = fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=2, d_hidden=8))
    y = layer(fmoe.tensor([[0.5] * 8] * 3))
    del layer
    y.backward([[1.0] * 8] * 3)


@case
def recompute_changes_nothing() -> None:
    norms = []
    for recompute in ("none", "block"):
        m = small.model(recompute=recompute, dropout=0.1)
        opt = fmoe.SGD(m, lr=0.1)
        m(*small.batch()).loss.backward()
        norms.append(opt.step().grad_norm)
    close(norms[0], norms[1], 1e-6)


@case
def moe_statistics() -> None:
    m = small.model(n_layer=4)
    assert [s["layer"] for s in m.moe_stats()] == [1, 3]
    assert [s[name] for s in m.moe_stats() for name in ("balance_loss", "z_loss")] == [None] * 4
    for name, p in m.named_parameters():
        if name.endswith("gate.weight"):  # surer of itself: fewer second choices are drawn
            p.copy_([[40 * w for w in row] for row in p.tolist()])
    planned = m.flops_per_token(measured=True)
    assert planned == m.flops_per_token()
    m(*small.batch())
    assert m.flops_per_token() == planned
    missing = (
        sum(s["not_taken"] for s in m.moe_stats()) * 2 * 3 * 4 * 16 * 24
    )  # 3 passes, 2 choices
    close(m.flops_per_token(measured=True), planned - missing, 1e-9)
    for stats in m.moe_stats():
        kept = sum(stats["tokens_per_expert"])
        tokens = 2 * small.SEQ_LEN
        assert stats["tokens"] == tokens
        close(stats["not_taken"], 1 - kept / (2 * tokens), 1e-9)  # the gate's random second
        assert stats["not_taken"] > 0 and stats["dropped"] == 0  # no capacity_factor
        assert 0 <= stats["entropy"] <= math.log(4) + 1e-6 and stats["load_max_over_mean"] >= 1
        assert stats["balance_loss"] > 0 and stats["z_loss"] > 0


@case
def moe_layer_alone() -> None:
    moe = fmoe.MoE(num_experts=4, d_hidden=12, gate="naive", top_k=2)
    layer = fmoe.MoELayer(d_model=8, moe=moe, bias=True)
    names = [name for name, _ in layer.named_parameters()]
    assert names[:3] == ["gate.weight", "experts.up.weight", "experts.up.bias"], names
    raises(RuntimeError, layer.routing, "has not run")
    x = fmoe.tensor([[[0.1 * i + 0.05 * j for j in range(8)] for i in range(5)]] * 2)
    y = layer(x)
    assert y.shape == (2, 5, 8)
    r = layer.routing()
    assert r.indices.shape == (10, 2) and r.scores.shape == (10, 2)
    assert sum(r.tokens_per_expert.tolist()) == 20
    assert float(layer.aux_loss) == 0.0  # naive has none
    balanced = fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=4, d_hidden=12))
    balanced(x)
    assert float(balanced.aux_loss) > 0
    assert balanced.training and not balanced.eval().training and balanced.train().training


class Tower(fmoe.Module):
    def __init__(self) -> None:
        self.embed = fmoe.Parameter([11, 8])
        self.blocks = [fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=2, d_hidden=8))]
        self.head = {"w": fmoe.Parameter([11, 8], init=(0.0, 0.1))}
        self.bias = fmoe.Parameter([11], init=0.0, decay=False)

    def forward(self, tokens: fmoe.Tensor, targets: fmoe.Tensor) -> fmoe.Tensor:
        x = fmoe.embedding(self.embed, tokens)
        for block in self.blocks:
            x = x + block(x)
        loss = fmoe.cross_entropy(fmoe.linear(x, self.head["w"], self.bias), targets)
        return loss + self.blocks[0].aux_loss


@case
def modules_train() -> None:
    fmoe.manual_seed(1)
    tower = Tower()
    names = [name for name, _ in tower.named_parameters()]
    assert names[0] == "embed" and "blocks.0.experts.up.weight" in names and names[-1] == "bias"
    assert tower.num_parameters() > 11 * 8 * 2 + 11
    opt = fmoe.AdamW(tower, lr=0.02)
    tokens, targets = fmoe.tensor([[1, 2, 3, 4, 5]]), fmoe.tensor([[2, 3, 4, 5, 6]])
    losses = []
    for _ in range(20):
        tower(tokens, targets).backward()
        losses.append(opt.step().loss)
    assert losses[-1] < losses[0] - 1, losses
    assert not tower.eval().blocks[0].training
    starts = []
    for _ in range(2):
        fmoe.manual_seed(1)
        starts.append(small.weights(Tower()))
    assert starts[0] == starts[1]


@case
def parameters_start_as_asked() -> None:
    assert fmoe.Parameter([3], init=2.5).tolist() == [2.5] * 3
    assert fmoe.Parameter([2, 1], init=[[1.0], [2.0]]).tolist() == [[1.0], [2.0]]
    many = [x for row in fmoe.Parameter([100, 100], init=(1.0, 0.5)).tolist() for x in row]
    mean = sum(many) / len(many)
    spread = math.sqrt(sum((x - mean) ** 2 for x in many) / len(many))
    close([mean, spread], [1.0, 0.5], 0.03)


@case
def evaluation_is_quiet() -> None:
    m = small.model(dropout=0.3)
    opt = fmoe.SGD(m, lr=0.0)
    tokens, targets = small.batch()
    first = float(m(tokens, targets).loss)
    m.eval()
    assert not m.training
    losses = {float(m(tokens, targets).loss) for _ in range(3)}
    assert len(losses) == 1 and first not in losses
    m.train()
    assert float(m(tokens, targets).loss) == first  # the same step draws the same numbers
    m(tokens, targets).loss.backward()
    opt.step()
    assert float(m(tokens, targets).loss) != first  # the next one others


@case
def plans_and_options() -> None:
    m = small.model()
    plan = m.memory_plan(4)
    assert set(plan) == {"parameters", "gradients", "moments", "activations"}
    assert plan["gradients"] >= 4 * m.num_parameters()
    assert m.memory_plan(8)["activations"] > plan["activations"]
    assert m.flops_per_token() > 6 * m.num_active_parameters() * 0.5
    rows = {row["name"]: row for row in fmoe.GPT.options()}
    assert rows["n_layer"]["required"] and rows["dropout"]["default"] == 0.0
    assert rows["norm"]["choices"] == ("layernorm", "rmsnorm")
    assert {row["name"] for row in fmoe.MoE.options()} >= {"num_experts", "gate", "every"}


@case
def layers_by_list() -> None:
    m = small.model(n_layer=3, moe=fmoe.MoE(num_experts=2, d_hidden=8, every=[0, 2]))
    assert [s["layer"] for s in m.moe_stats()] == [0, 2]
    assert m.moe.every == (0, 2)


main()
