"""Models whose experts are spread over ranks: trained alike on every mesh; routing recorded and
replayed; gates of one's own; what generate() needs."""

import itertools
import os
import sys
import tempfile

import multirank
from multirank import case

import fmoe

RANK, WORLD = fmoe.rank(), fmoe.world_size()
VOCAB, SEQ_LEN, BATCH, STEPS = 64, 16, 8, 3


def meshes(most_tp: int = 1) -> list[dict[str, int]]:
    """Every (ep, etp) of this many ranks, and every tp up to most_tp."""
    sizes = [n for n in range(1, WORLD + 1) if WORLD % n == 0]
    return [
        {"tp": tp, "ep": ep, "etp": etp}
        for tp, ep, etp in itertools.product(sizes, sizes, sizes)
        if tp <= most_tp and WORLD % (ep * etp) == 0
    ]


def make(sizes: dict[str, int], recompute: str = "none", **moe: object) -> fmoe.GPT:
    fmoe.manual_seed(5)
    options = {"num_experts": 8, "d_hidden": 16, "gate": "gshard", "every": 1, **moe}
    return fmoe.GPT(
        vocab_size=VOCAB,
        n_layer=2,
        d_model=16,
        n_head=4,
        seq_len=SEQ_LEN,
        dropout=0.1,
        moe=fmoe.MoE(**options),
        mesh=fmoe.Mesh(**sizes),
        recompute=recompute,
    )


def batch(step: int, tp: int = 1) -> tuple[list[list[int]], list[list[int]]]:
    """This rank's sequences of the step's BATCH."""
    dp = WORLD // tp
    own, first = BATCH // dp, RANK // tp * (BATCH // dp)
    rows = [
        [(i * 37 + j * j * 11 + step * 5) % VOCAB for j in range(SEQ_LEN + 1)]
        for i in range(first, first + own)
    ]
    return [row[:-1] for row in rows], [row[1:] for row in rows]


def train(model: fmoe.GPT) -> list[float]:
    opt = fmoe.AdamW(model, lr=1e-3)
    losses = []
    for step in range(STEPS):
        model(*batch(step, model.mesh.tp)).loss.backward()
        losses.append(float(opt.step().loss))
    return losses


def close(got: list[float], want: list[float], what: object) -> None:
    for a, b in zip(got, want, strict=True):
        assert abs(a - b) <= 1e-5 * abs(b), f"{what}: losses {got}, not {want}"


def folder() -> str:
    """One that all ranks share, and rank 0 has made."""
    name = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR")) if RANK == 0 else ""
    letters = fmoe.tensor([float(ord(c)) for c in name.ljust(512)] if name else [0.0] * 512)
    numbers = fmoe.all_reduce(letters, group="world").tolist()
    return "".join(chr(int(n)) for n in numbers).rstrip()


@case
def trained_alike_on_every_mesh() -> None:
    for moe in (
        {},
        {"capacity_factor": 0.7, "recompute": "block"},
        {"gate": "switch", "jitter": 0.1, "aux_loss_scope": "sequence"},
        {"gate": "naive", "activation": "swiglu", "num_shared_experts": 1},
    ):
        want, stats = None, None
        for sizes in meshes(most_tp=4):
            model = make(sizes, **moe)
            losses = train(model)
            counts = [s["tokens_per_expert"] for s in model.moe_stats()]
            if want is None:
                want, stats = losses, counts
            close(losses, want, (sizes, moe))
            assert counts == stats, f"{sizes}, {moe}: {counts}, not {stats}"


@case
def every_expert_is_somewhere() -> None:
    for sizes in meshes():
        model = make(sizes)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        ep, etp = sizes["ep"], sizes["etp"]
        assert shapes["layers.0.moe.experts.up.weight"] == (8 // ep, 16 // etp, 16)
        assert shapes["layers.0.moe.experts.down.weight"] == (8 // ep, 16, 16 // etp)
        assert shapes["layers.0.moe.gate.weight"] == (8, 16)
        assert model.num_parameters() == make({"ep": 1, "etp": 1}).num_parameters()


@case
def recordings_of_all_meshes_are_equal() -> None:
    first = None
    for sizes in meshes(most_tp=4):
        path = folder()
        model = make(sizes, capacity_factor=0.8)
        with fmoe.record(model, path):
            train(model)
        routing = fmoe.read_routing(path)
        keys = [(layer, step, 0, 0) for step in range(STEPS) for layer in range(2)]
        assert sorted(routing) == sorted(keys), sorted(routing)
        k, choices = routing[0, 0, 0, 0]
        assert k == 2 and len(choices) == BATCH * SEQ_LEN * 2
        assert min(choices) < -1, "gshard drew no second choice away"
        first = first or routing
        assert routing == first, sizes


@case
def replayed_on_another_mesh() -> None:
    path, again = folder(), folder()
    sizes = meshes()
    model = make(sizes[0])
    with fmoe.record(model, path):
        want = train(model)
    model = make(sizes[-1])
    with fmoe.replay(model, path):
        close(train(model), want, "replayed")
    # Weights that would choose otherwise, but follow.
    for other in (sizes[0], sizes[-1]):
        model = make(other)
        for name, p in model.named_parameters():
            if name.endswith("gate.weight"):
                p.copy_([[-x for x in row] for row in p.tolist()])
        with fmoe.replay(model, path):
            train(model)
        wanted = fmoe.read_routing(path)[0, 0, 0, 0][1]
        kept = sum(e >= 0 for e in wanted)
        with fmoe.replay(model, path):
            stats = train_once(model)
        assert sum(stats["tokens_per_expert"]) == kept, (stats, kept)
        counts = [sum(e == expert for e in wanted) for expert in range(8)]
        assert stats["tokens_per_expert"] == counts
    model = make(sizes[0])
    with fmoe.record(model, again):
        train(model)
    assert fmoe.read_routing(again) == fmoe.read_routing(path)


def train_once(model: fmoe.GPT) -> dict:
    """One forward of a fresh optimiser's step 0: the first layer's statistics, and the loss."""
    opt = fmoe.AdamW(model, lr=0.0)
    model(*batch(0)).loss.backward()
    return {"loss": opt.step().loss, **model.moe_stats()[0]}


@case
def saved_on_one_mesh_loaded_on_another() -> None:
    """The halves of a split swiglu are many boxes."""
    moe = {"gate": "naive", "activation": "swiglu"}
    for sizes in meshes():
        model, path = make(sizes, **moe), folder()
        train(model)
        want = train_once(model)["loss"]
        ckpt = fmoe.Checkpointer(path)
        ckpt.save(1, model=model)
        ckpt.wait()
        for other in meshes():
            loaded = make(other, **moe)
            assert fmoe.Checkpointer(path).load(model=loaded) == 1
            got = train_once(loaded)["loss"]
            assert abs(got - want) <= 1e-5 * want, (sizes, other, got, want)


class Everyone(fmoe.Gate):
    """Sends each token to the expert that its rank's number says; its loss is over all ranks."""

    default_top_k = 1

    def forward(
        self, x: fmoe.Tensor, token_ids: fmoe.Tensor | None = None
    ) -> tuple[fmoe.Tensor, fmoe.Tensor, fmoe.Tensor | None]:
        n = x.shape[0]
        one = fmoe.tensor([1.0])
        assert fmoe.all_reduce(one, group="edp").tolist() == [1.0]  # of its own mesh
        indices = fmoe.tensor([[self.mesh.rank]] * n)
        return indices, fmoe.tensor([[1.0]] * n), fmoe.all_reduce(one, group="world")


@case
def gates_of_ones_own() -> None:
    model = make({"ep": WORLD}, gate=Everyone)
    out = model(*batch(0))
    out.loss.backward()
    stats = model.moe_stats()[0]
    own = BATCH * SEQ_LEN // WORLD
    assert stats["tokens_per_expert"] == [own] * WORLD + [0] * (8 - WORLD), stats
    assert abs(stats["balance_loss"] - WORLD) < 1e-6
    assert abs(out.aux["balance"] - 0.01 * WORLD) < 1e-6


class Even(fmoe.Gate):
    """Token t goes to expert t % 8."""

    default_top_k = 1

    def forward(
        self, x: fmoe.Tensor, token_ids: fmoe.Tensor | None = None
    ) -> tuple[fmoe.Tensor, fmoe.Tensor, fmoe.Tensor | None]:
        n = x.shape[0]
        return fmoe.tensor([[t % 8] for t in range(n)]), fmoe.tensor([[1.0]] * n), None


@case
def bytes_as_documented() -> None:
    """docs/moe.md, "Across ranks"; 2 layers of width 16, 8 experts, float32."""
    tokens = BATCH * SEQ_LEN // WORLD
    for sizes, capacity, recompute in itertools.product(meshes(), (None, 1.0), ("none", "block")):
        model = make(sizes, recompute, gate=Even, capacity_factor=capacity)
        mesh = fmoe.Mesh(**sizes)
        mesh.comm_stats(reset=True)
        model(*batch(0)).loss.backward()
        rows = {(row["group"], row["kind"]): row for row in mesh.comm_stats()}
        forwards = 2 if recompute == "block" else 1
        counts = 3 * 8 + 5 + (8 if capacity else 0)
        sent = rows["stage", "all_gather"]["bytes"]
        assert sent == 2 * forwards * 4 * counts * (WORLD - 1), (sizes, capacity, recompute, sent)
        ranks = sizes["ep"] * sizes["etp"]
        if ranks == 1:
            assert ("expert", "all_to_all_v") not in rows, sizes
            continue
        one_way = tokens * 16 * 4 * (ranks - 1) // sizes["ep"]
        sent = rows["expert", "all_to_all_v"]["bytes"]
        assert sent == 2 * (2 * forwards + 2) * one_way, (sizes, capacity, recompute, sent)


@case
def all_ranks_generate_together() -> None:
    prompt = [[1, 2, 3]]
    texts = []
    for sizes in meshes():
        texts.append(make(sizes).generate(prompt, max_new_tokens=6, seed=3).tolist())
    assert all(text == texts[0] for text in texts), texts
    if RANK == 0:  # who has all experts needs nobody
        assert make_alone().generate(prompt, max_new_tokens=6, seed=3).tolist() == texts[0]


_alone: list[fmoe.GPT] = []


def make_alone() -> fmoe.GPT:
    return _alone[0]


_alone.append(make({}))  # a mesh is made by all ranks


@case
def sizes_that_do_not_divide() -> None:
    for sizes, moe, words in (
        ({"ep": WORLD}, {"num_experts": 2 * WORLD + 1}, ("num_experts", "ep")),
        ({"etp": WORLD}, {"d_hidden": WORLD + 1}, ("d_hidden", "etp")),
    ):
        try:
            make(sizes, **moe)
        except ValueError as error:
            assert all(word in str(error) for word in words), error
        else:
            raise AssertionError(f"{sizes} and {moe} are accepted")


if WORLD == 1:
    sys.exit("this script is for several ranks")
multirank.main()
