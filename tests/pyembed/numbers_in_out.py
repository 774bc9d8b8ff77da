"""Numbers come in and go out as they are, or are refused; nothing is cut or rounded in silence."""

import array

from harness import case, close, main, raises

import fmoe

BIG = 2**62 + 1  # no float64


@case
def one_element_is_a_number() -> None:
    t = fmoe.tensor(875770417)  # whose bytes are the digits "1234"
    assert int(t) == 875770417 and float(t) == 875770417.0 and t.item() == 875770417
    assert fmoe.tensor(BIG).item() == BIG == int(fmoe.tensor([BIG]))
    assert int(fmoe.tensor(-2.75)) == -2 and isinstance(fmoe.tensor(1.0).item(), float)
    for truth in (0.0, 0.5, 0, 3):
        assert bool(fmoe.tensor([truth])) == bool(truth), truth
    raises(ValueError, lambda: bool(fmoe.tensor([0.0, 1.0])), "one element", "2")
    raises(ValueError, lambda: int(fmoe.tensor([1, 2])), "one element", "2")


@case
def lists_of_ints() -> None:
    assert fmoe.tensor([BIG, -BIG]).tolist() == [BIG, -BIG]
    assert fmoe.tensor([2**31 - 1, -(2**31)]).dtype == "int32"
    assert fmoe.tensor([2**31]).dtype == "int64"
    assert fmoe.tensor([1, 2.0]).dtype == "float32"
    assert fmoe.tensor([fmoe.tensor(3), True]).tolist() == [3, 1]
    raises(
        ValueError, lambda: fmoe.tensor([[10**30]]), "1000000000000000000000000000000", "64 bits"
    )
    raises(ValueError, lambda: fmoe.tensor([0.5, 10**400]), "beyond the floats")
    raises(TypeError, lambda: fmoe.tensor([1, "a"]), "'a'", "str")
    raises(ValueError, lambda: fmoe.tensor([[1, 2], [3]]), "rows of 1 and of 2")
    raises(ValueError, lambda: fmoe.tensor([[1], 2]), "unevenly")


class Shrinks:
    """A number that takes its list apart while it is read."""

    def __init__(self, of: list) -> None:
        self.of = of

    def __float__(self) -> float:
        self.of.clear()
        return 1.0


@case
def a_list_that_changes_meanwhile() -> None:
    numbers: list = []
    numbers += [Shrinks(numbers), 1.0, 2.0]
    raises(ValueError, lambda: fmoe.tensor(numbers), "rows of 0 and of 3")


@case
def buffers_of_ints() -> None:
    assert fmoe.tensor(array.array("Q", [2**63 - 1])).tolist() == [2**63 - 1]
    raises(ValueError, lambda: fmoe.tensor(array.array("Q", [2**64 - 1])), "18446744073709551615")
    assert fmoe.tensor(array.array("I", [2**32 - 1])).tolist() == [2**32 - 1]
    assert fmoe.tensor(array.array("b", [-3])).tolist() == [-3]


@case
def ids_are_not_cut() -> None:
    """2**32 + 1 is not row 1, and 2**32 - 1 is not the -1 that is ignored."""
    table = fmoe.tensor([[1.0, 2.0], [3.0, 4.0]])
    wide = fmoe.tensor([2**32 + 1])
    raises(IndexError, lambda: fmoe.embedding(table, wide), "ids", "4294967297")
    ignored = fmoe.tensor([2**32 - 1, 2**32 - 1])
    raises(IndexError, lambda: fmoe.cross_entropy(table, ignored), "target", "4294967295")
    raises(
        IndexError, lambda: fmoe.moe_permute(table, fmoe.tensor([[2**32], [0]]), 2), "4294967296"
    )
    layer = fmoe.MoELayer(d_model=2, moe=fmoe.MoE(num_experts=2, d_hidden=2))
    raises(IndexError, lambda: layer(table, ignored), "token_ids", "4294967295")
    assert fmoe.embedding(table, fmoe.tensor([1], dtype="int64")).tolist() == [[3.0, 4.0]]


@case
def sizes_that_overflow() -> None:
    x = fmoe.tensor([[1.0], [2.0]])
    raises(ValueError, lambda: fmoe.split(x, [2**62, 2**62, 2]), "sizes")
    assert [part.shape for part in fmoe.split(x, [2, 0])] == [(2, 1), (0, 1)]


@case
def arithmetic() -> None:
    t = fmoe.tensor([[1.0, -2.0], [0.5, 4.0]], requires_grad=True)
    for got, want in (
        (t + 1, [[2.0, -1.0], [1.5, 5.0]]),
        (2 - t, [[1.0, 4.0], [1.5, -2.0]]),
        (t - 0.5, [[0.5, -2.5], [0.0, 3.5]]),
        (-t, [[-1.0, 2.0], [-0.5, -4.0]]),
        (t / 4, [[0.25, -0.5], [0.125, 1.0]]),
        (t - t * 2.0, [[-1.0, 2.0], [-0.5, -4.0]]),
    ):
        assert got.tolist() == want, (got.tolist(), want)
    fmoe.sum(3.0 - (t - t * 3.0) / 2).backward()  # 3 + t
    assert t.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    raises(ZeroDivisionError, lambda: t / 0)
    raises(TypeError, lambda: t / t)
    raises(TypeError, lambda: t + "one")
    raises(TypeError, lambda: t - True)


@case
def losses_of_routers() -> None:
    """By hand: 4 tokens, 2 experts; three of four first choices are expert 0."""
    probs = fmoe.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], requires_grad=True)
    choices = fmoe.tensor([[0], [0], [0], [1]])
    loss = fmoe.balance_loss(probs, choices)
    close(loss.item(), 2 * (0.75 * 0.6 + 0.25 * 0.4), 1e-6)
    loss.backward()
    close(probs.grad.tolist(), [[2 * 0.75 / 4, 2 * 0.25 / 4]] * 4, 1e-6)
    close(fmoe.z_loss(fmoe.tensor([[0.0, 0.0], [1.0, 1.0]])).item(), 1.673600, 1e-5)
    raises(
        IndexError, lambda: fmoe.balance_loss(probs, fmoe.tensor([[2]] * 4)), "indices[0, 0]", "2"
    )
    raises(ValueError, lambda: fmoe.balance_loss(probs, fmoe.tensor([[0]])), "[4, k]")


main()
