"""What a checkpoint compares with the script's model, and what of the optimiser it brings back."""

import json

import small
from harness import case, main, raises, run, scratch

import fmoe


def moe(**changes):
    return fmoe.MoE(num_experts=4, d_hidden=24, **changes)


@case
def another_function_of_the_same_weights() -> None:
    with scratch() as folder:
        store = fmoe.Checkpointer(folder + "/run")
        store.save(1, model=small.model(position="rope"))
        for changes, word in (
            ({"n_head": 4}, "n_head=2, not 4"),
            ({"rope_theta": 5e5}, "rope_theta=10000.0"),
            ({"norm_eps": 1e-6}, "norm_eps"),
            ({"activation": "relu"}, "activation='gelu'"),
            ({"moe": moe(gate="naive")}, "gate='gshard', not 'naive'"),
            ({"moe": moe(scale=2.0)}, "scale"),
        ):
            m = small.model(**{"position": "rope", **changes})
            raises(fmoe.CheckpointError, lambda m=m: store.load(model=m), word, "allow_other_model")
            assert store.load(model=m, allow_other_model=True) == 1
        plain = fmoe.Checkpointer(folder + "/plain")
        plain.save(1, model=small.model(moe=moe(every=1)))
        unused = small.model(moe=moe(every=1), rope_theta=5e5, activation="relu")
        assert plain.load(model=unused) == 1
        may_change = small.model(
            position="rope",
            dropout=0.5,
            recompute="block",
            seq_len=32,
            moe=moe(capacity_factor=2.0, aux_loss_weight=0.5),
        )
        assert store.load(model=may_change) == 1


@case
def a_part_of_a_module() -> None:
    class Two(fmoe.Module):
        def __init__(self, n_head: int) -> None:
            self.part = small.model(n_head=n_head)
            self.layer = fmoe.MoELayer(d_model=8, moe=moe())

    with scratch() as folder:
        store = fmoe.Checkpointer(folder + "/run")
        store.save(1, model=Two(2))
        store.wait()
        kept = fmoe.checkpoint_info(store.path(1))["state"]["model"]
        assert kept["part"]["moe"]["num_experts"] == 4 and kept["layer"]["moe"]["gate"] == "gshard"
        assert store.load(model=Two(2)) == 1
        raises(fmoe.CheckpointError, lambda: store.load(model=Two(4)), "part: n_head=2, not 4")


@case
def another_shape_is_no_damage() -> None:
    """on_corrupt="older" does not look for an older checkpoint that happens to fit."""
    with scratch() as folder:
        store = fmoe.Checkpointer(folder + "/run")
        narrow, wide = small.model(), small.model(d_model=32)
        store.save(1, model=wide)
        store.wait()
        store.save(2, model=narrow)
        store.wait()
        words = "step_00000002", "embed.token is [256, 16] there and [256, 32] in the model"
        raises(fmoe.CheckpointError, lambda: store.load(model=wide, on_corrupt="older"), *words)
        more = small.model(n_layer=3)
        raises(fmoe.CheckpointError, lambda: store.load(model=more), "the model has 'layers.2.")


@case
def another_optimizer() -> None:
    with scratch() as folder:
        store, m = fmoe.Checkpointer(folder + "/run"), small.model()
        store.save(1, model=m, optimizer=fmoe.SGD(m, lr=0.1, momentum=0.9))
        store.wait()
        adam, plain = fmoe.AdamW(m, lr=0.1), fmoe.SGD(m, lr=0.1)
        for optimizer, words in ((adam, ("'sgd'", "'adamw'")), (plain, ("['sgd.m']", "keeps []"))):
            load = lambda o=optimizer: store.load(model=m, optimizer=o)  # noqa: E731
            raises(fmoe.CheckpointError, load, *words)
        assert store.load(model=m, optimizer=fmoe.SGD(m, lr=0.1, momentum=0.5)) == 1
        store.save(2, model=m)
        store.wait()
        raises(
            fmoe.CheckpointError,
            lambda: store.load(model=m, optimizer=adam),
            "without an optimizer",
        )
        assert store.load(model=m) == 2


@case
def a_state_that_fmoe_does_not_write() -> None:
    """It is a bad checkpoint, whatever it holds, before anything is overwritten."""
    with scratch() as folder:
        m = small.model()
        opt = fmoe.AdamW(m, lr=0.1)
        store = fmoe.Checkpointer(folder + "/run", asynchronous=False, keep_last=99)
        store.save(1, model=m, optimizer=opt)
        good = fmoe.checkpoint_info(store.path(1))["state"]
        adam = good["optimizer"]
        before = small.weights(m)
        other = small.model(seed=8)
        theirs = fmoe.AdamW(other, lr=0.1)
        for step, state in enumerate(
            (
                [1],
                3,
                {**good, "format": 2},
                {**good, "optimizer": "x"},
                {**good, "optimizer": {"kind": "adamw"}},
                {**good, "optimizer": {**adam, "step": 2**40}},
                {**good, "optimizer": {**adam, "lr": -1}},
                {**good, "optimizer": {**adam, "step": True}},
                {**good, "model": [1]},
                {**good, "model": {"": {"moe": 1}}},
                {**good, "loader": 3},
                {**good, "seed": "a"},
                {**good, "seed": -1},
                {k: v for k, v in good.items() if k != "extra"},
            ),
            start=2,
        ):
            store._store.save(step, model=other, optimizer=theirs, state=json.dumps(state))
            load = lambda: store.load(model=m, optimizer=opt)  # noqa: E731
            raises(fmoe.CheckpointError, load, "its state", f"step_{step:08d}")
            assert small.weights(m) == before, state
        assert store.load(model=m, optimizer=opt, on_corrupt="older") == 1


SAVE = """
import fmoe, sys, small
m = small.model()
o = fmoe.AdamW(m, lr=1e-3, schedule=fmoe.constant(warmup=2))
o.lr = 5e-4
fmoe.Checkpointer(sys.argv[1]).save(1, model=m, optimizer=o)
"""
LOAD = """
import fmoe, sys, small
m = small.model()
o = fmoe.AdamW(m, lr=float(sys.argv[2]), schedule=fmoe.constant(warmup=int(sys.argv[3])))
if len(sys.argv) > 4: o.lr = float(sys.argv[4])
fmoe.Checkpointer(sys.argv[1]).load(model=m, optimizer=o)
print(o.lr)
"""


@case
def a_learning_rate_set_by_hand() -> None:
    """It comes back where the script is the same; where that gives another, it holds."""
    with scratch() as folder:
        saved = run(["-c", SAVE, folder + "/run"], cwd=small.FOLDER)
        assert saved.returncode == 0, saved.stderr
        for arguments, lr, said in (
            (["1e-3", "2"], "0.0005", ""),
            (["2e-3", "2"], "0.002", "lr is 0.002; in the run that was saved it was 0.0005"),
            (["1e-3", "2", "1e-4"], "0.0001", "lr is 0.0001"),
            (["1e-3", "5"], "0.0005", "schedule is"),
        ):
            out = run(["-c", LOAD, folder + "/run", *arguments], cwd=small.FOLDER)
            assert out.stdout == lr + "\n", (arguments, out.stdout, out.stderr)
            assert said in out.stderr and bool(said) == bool(out.stderr), out.stderr


main()
