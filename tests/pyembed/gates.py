"""A gate written in Python is as good as a built-in one."""

import math
import warnings

import small
from harness import case, close, main, raises

import fmoe


class Naive(fmoe.Gate):
    """The built-in gate `naive`: softmax over the k largest logits."""

    def __init__(self, d_model: int, num_experts: int, top_k: int) -> None:
        super().__init__(d_model, num_experts, top_k)
        self.weight = fmoe.Parameter([num_experts, d_model])
        self.seen: list[bool] = []

    def forward(self, x, token_ids=None):
        assert self.mesh.dp == 1 and token_ids is not None
        self.seen.append(self.training)
        values, indices = fmoe.top_k(fmoe.linear(x, self.weight), self.top_k)
        return indices, fmoe.softmax(values), None


def pair():
    """A model with the built-in gate, one with ours, and the same weights in both."""
    options = {"num_experts": 4, "d_hidden": 24, "top_k": 2}
    a = small.model(moe=fmoe.MoE(gate="naive", **options))
    b = small.model(moe=fmoe.MoE(gate=Naive, **options))
    theirs = dict(a.named_parameters())
    assert set(theirs) == {name for name, _ in b.named_parameters()}
    for name, parameter in b.named_parameters():
        parameter.copy_(theirs[name])
    assert a.num_parameters() == b.num_parameters()
    return a, b


@case
def equals_naive() -> None:
    a, b = pair()
    optimisers = [fmoe.AdamW(m, lr=0.01) for m in (a, b)]
    for _ in range(5):
        losses = []
        for m, opt in zip((a, b), optimisers, strict=False):
            m(*small.batch()).loss.backward()
            losses.append(opt.step())
        close(list(losses[0][:2]), list(losses[1][:2]), 1e-5)
    before = small.weights(b)["layers.1.moe.gate.weight"]
    close(small.weights(a)["layers.1.moe.gate.weight"], before, 1e-4)
    stats = [m.moe_stats()[0]["tokens_per_expert"] for m in (a, b)]
    assert stats[0] == stats[1]
    assert a.generate([1, 2, 3], 10, temperature=0.0).tolist() == (
        b.generate([1, 2, 3], 10, temperature=0.0).tolist()
    )


@case
def knows_its_mode() -> None:
    layer = fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=4, d_hidden=8, gate=WithIds))
    x = fmoe.tensor([[0.5] * 8] * 6)
    layer(x, fmoe.tensor([0, 1, 2, 3, 0, 1]))
    assert layer.routing().indices.tolist() == [[0], [1], [2], [3], [0], [1]]
    layer.eval()(x, fmoe.tensor([0, 1, 2, 3, 0, 1]))
    assert layer.routing().indices.tolist() == [[-1]] * 6  # WithIds drops all in evaluation
    close(float(layer.aux_loss), 0.01 * 2.0, 1e-6)


class WithIds(fmoe.Gate):
    default_top_k = 1

    def forward(self, x, token_ids=None):
        n = x.shape[0]
        ids = fmoe.tensor([[-1]] * n) if not self.training else fmoe.reshape(token_ids, [n, 1])
        return ids, fmoe.tensor([[1.0]] * n), fmoe.tensor([2.0])


def broken(result):
    class Broken(fmoe.Gate):
        def forward(self, x, token_ids=None):
            return result(x)

    layer = fmoe.MoELayer(d_model=4, moe=fmoe.MoE(num_experts=2, d_hidden=4, gate=Broken))
    return lambda: layer(fmoe.tensor([[1.0] * 4] * 3))


class NaNs(Naive):
    def forward(self, x, token_ids=None):
        indices, scores, _ = super().forward(x, token_ids)
        return indices, scores * math.nan, None


@case
def nan_names_the_layer() -> None:
    m = small.model(moe=fmoe.MoE(num_experts=4, d_hidden=24, gate=NaNs))
    raises(FloatingPointError, lambda: m(*small.batch()), "layers.1.moe: the gate's score")


class Half(Naive):
    """Takes the first choice alone."""

    def forward(self, x, token_ids=None):
        indices, scores, _ = super().forward(x, token_ids)
        rows = [[row[0], -1] for row in indices.tolist()]
        return fmoe.tensor(rows), scores, None


@case
def what_is_measured_of_it() -> None:
    m = small.model(moe=fmoe.MoE(num_experts=4, d_hidden=24, gate=Half, capacity_factor=0.25))
    m(*small.batch())
    (stats,) = m.moe_stats()
    assert stats["not_taken"] == 0.5 and 0 < stats["dropped"] < 1, stats
    close(stats["dropped"], 1 - sum(stats["tokens_per_expert"]) / stats["tokens"], 1e-9)
    assert stats["z_loss"] is None and stats["balance_loss"] is None, stats


@case
def mistakes_are_named() -> None:
    good, scores = fmoe.tensor([[0, 1]] * 3), fmoe.tensor([[0.5, 0.5]] * 3)
    broken(lambda x: (good, scores, None))()
    raises(ZeroDivisionError, broken(lambda x: 1 / 0), "division")
    raises(TypeError, broken(lambda x: good), "indices, scores, loss")
    raises(TypeError, broken(lambda x: ([[0, 1]] * 3, scores, None)), "indices", "list")
    raises(ValueError, broken(lambda x: (scores, scores, None)), "indices", "int32")
    raises(ValueError, broken(lambda x: (good, good, None)), "scores", "float32")
    raises(ValueError, broken(lambda x: (fmoe.tensor([[0, 2]] * 3), scores, None)), "2", "1")
    raises(ValueError, broken(lambda x: (good, scores, scores)), "loss")
    raises(ValueError, broken(lambda x: (fmoe.tensor([[0, 1]]), scores, None)), "[3, 2]")
    nan = fmoe.tensor([[0.5, 0.5], [0.5, math.nan], [0.5, 0.5]])
    raises(FloatingPointError, broken(lambda x: (good, nan, None)), "score of token 1, choice 1")
    raises(
        FloatingPointError, broken(lambda x: (good, scores, fmoe.tensor([math.nan]))), "loss is NaN"
    )

    class NoInit(fmoe.Gate):
        def __init__(self, d_model, num_experts, top_k) -> None:
            raise KeyError("no")

    raises(
        KeyError,
        lambda: small.model(moe=fmoe.MoE(num_experts=2, d_hidden=4, gate=NoInit)),
        "no",
    )


@case
def trains_its_own_parameters() -> None:
    moe = fmoe.MoE(num_experts=4, d_hidden=24, gate=Naive, top_k=1)
    m = small.model(moe=moe)
    opt = fmoe.SGD(m, lr=0.5)
    start = small.weights(m)["layers.1.moe.experts.up.weight"]
    m(*small.batch()).loss.backward()
    opt.step()
    assert small.weights(m)["layers.1.moe.experts.up.weight"] != start


class Stops(Naive):
    """Raises in its n-th call."""

    calls_left = -1

    def forward(self, x, token_ids=None):
        Stops.calls_left -= 1
        if Stops.calls_left == 0:
            raise KeyboardInterrupt
        return super().forward(x, token_ids)


@case
def an_exception_in_backward_drops_the_step() -> None:
    def run(interrupted: bool) -> list[float]:
        moe = fmoe.MoE(num_experts=4, d_hidden=24, gate=Stops, top_k=2)
        m = small.model(moe=moe, recompute="block", dropout=0.2)
        opt = fmoe.AdamW(m, lr=0.01, micro_batches=2)
        if interrupted:
            m(*small.batch()).loss.backward()
            loss = m(*small.batch()).loss
            Stops.calls_left = 1
            raises(KeyboardInterrupt, loss.backward)
            raises(RuntimeError, opt.step, "0 backwards")
        for _ in range(2):
            m(*small.batch()).loss.backward()
        return list(opt.step())

    assert run(True) == run(False)


@case
def naive_top_1_warns() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fmoe.MoE(num_experts=4, d_hidden=4, gate="naive", top_k=1)
        fmoe.MoE(num_experts=4, d_hidden=4, gate="naive")
        fmoe.MoE(num_experts=4, d_hidden=4, gate="switch")
    assert len(caught) == 1 and "'switch'" in str(caught[0].message), caught


main()
