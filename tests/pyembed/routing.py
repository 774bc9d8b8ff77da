"""fmoe.record and fmoe.replay on one rank; tests/multirank has them on several."""

import os
import tempfile

import small
from harness import case, main, raises

import fmoe


def folder() -> str:
    return tempfile.mkdtemp()


def train(model: object, steps: int = 2, micro_batches: int = 1) -> None:
    opt = fmoe.AdamW(model, lr=1e-3, micro_batches=micro_batches)
    for _ in range(steps):
        for _ in range(micro_batches):
            model(*small.batch()).loss.backward()
        opt.step()


@case
def what_is_recorded() -> None:
    model, path = small.model(), folder()
    with fmoe.record(model, path):
        train(model, steps=2, micro_batches=2)
        model.eval()
        model(*small.batch())
        model.generate([[1, 2]], max_new_tokens=2)
        model.train()
        model(*small.batch())  # the same clock as the next
        model(*small.batch())
    model(*small.batch())  # no longer
    routing = fmoe.read_routing(path)
    keys = [(0, s, m, 0) for s in range(2) for m in range(2)] + [(0, 2, 0, 0), (0, 2, 0, 1)]
    assert sorted(routing) == keys, sorted(routing)
    k, choices = routing[0, 2, 0, 1]
    assert k == 2 and len(choices) == 2 * small.SEQ_LEN * 2
    counts = [sum(e == expert for e in choices) for expert in range(4)]
    assert counts == model.moe_stats()[0]["tokens_per_expert"]


@case
def recomputed_blocks_count_once() -> None:
    plain, again = folder(), folder()
    for path, recompute in ((plain, "none"), (again, "block")):
        model = small.model(recompute=recompute)
        with fmoe.record(model, path):
            train(model)
    assert fmoe.read_routing(plain) == fmoe.read_routing(again)
    model = small.model(recompute="block")
    with fmoe.replay(model, plain):
        train(model)


@case
def replayed_choices_are_followed() -> None:
    for gate in ("naive", "gshard", "switch"):
        path = folder()
        moe = fmoe.MoE(num_experts=4, d_hidden=24, gate=gate)
        model, other = small.model(moe=moe), small.model(moe=moe, seed=8)
        with fmoe.record(model, path):
            train(model, steps=1)
        want = model.moe_stats()[0]["tokens_per_expert"]
        with fmoe.replay(other, path):
            train(other, steps=1)
        assert other.moe_stats()[0]["tokens_per_expert"] == want, gate
        train(other, steps=1)
        assert other.moe_stats()[0]["tokens_per_expert"] != want, "it still follows"


@case
def layers_of_modules() -> None:
    class Two(fmoe.Module):
        def __init__(self) -> None:
            moe = fmoe.MoE(num_experts=4, d_hidden=8, gate="naive")
            self.layers = [fmoe.MoELayer(d_model=8, moe=moe) for _ in range(2)]

    module, path = Two(), folder()
    x = fmoe.tensor([[float((i * j) % 5) for j in range(8)] for i in range(6)])
    with fmoe.record(module, path):
        for layer in module.layers:
            layer(x)
    routing = fmoe.read_routing(path)
    for i, layer in enumerate(module.layers):
        choices = [e for row in layer.routing().indices.tolist() for e in row]
        assert list(routing[i, 0, 0, 0][1]) == choices


@case
def what_cannot_be() -> None:
    model, path = small.model(), folder()
    with fmoe.record(model, path):
        train(model, steps=1)
        raises(ValueError, lambda: fmoe.RoutingLog([model]), "already")
    raises(FileExistsError, lambda: fmoe.record(model, path).__enter__(), path)
    raises(ValueError, lambda: fmoe.replay(model, folder()), "no complete recording")
    dense = fmoe.GPT(vocab_size=9, n_layer=1, d_model=8, n_head=1, seq_len=4)
    raises(ValueError, lambda: fmoe.RoutingLog([dense]), "no MoE layer")
    raises(TypeError, lambda: fmoe.RoutingLog([3]), "int", "MoELayer")
    with fmoe.replay(model, path):
        raises(ValueError, lambda: train(model), "nothing is recorded", "step 1")
    longer = small.model()
    with fmoe.replay(longer, path):
        raises(ValueError, lambda: longer(*small.batch(rows=3)), "tokens are recorded")
    (name,) = os.listdir(path)
    with open(os.path.join(path, name), "r+b") as file:
        file.truncate(os.path.getsize(file.name) - 1)
    raises(ValueError, lambda: fmoe.read_routing(path), name, "ends in the middle")
    os.rename(os.path.join(path, name), os.path.join(path, "rank_00000_of_00002.routing"))
    raises(ValueError, lambda: fmoe.read_routing(path), "no complete recording")


class Own(fmoe.Gate):
    default_top_k = 1

    def forward(
        self, x: fmoe.Tensor, token_ids: fmoe.Tensor | None = None
    ) -> tuple[fmoe.Tensor, fmoe.Tensor, fmoe.Tensor | None]:
        n = x.shape[0]
        return fmoe.tensor([[2]] * n), fmoe.tensor([[1.0]] * n), None


@case
def gates_of_ones_own_are_recorded_only() -> None:
    path = folder()
    model = small.model(moe=fmoe.MoE(num_experts=4, d_hidden=24, gate=Own))
    with fmoe.record(model, path):
        train(model, steps=1)
    assert set(fmoe.read_routing(path)[0, 0, 0, 0][1]) == {2}
    with fmoe.replay(model, path):
        raises(NotImplementedError, lambda: train(model, steps=1), "replayed")


main()
