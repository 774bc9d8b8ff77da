"""The Python of docs/guide.md and README.md runs, and the guide's table names every operation."""

import os
import re
import types

import small
from harness import Skip, case, main, scratch

import _fmoe
import fmoe

TOP = os.path.dirname(os.path.dirname(small.FOLDER))


def page(name: str) -> str:
    with open(os.path.join(TOP, name), encoding="utf-8") as file:
        return file.read()


def snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)


def run_all(text: str, **values) -> dict:
    exec(compile(text, "snippet", "exec"), values)
    return values


def parts(folder: str, **changes):
    """What a snippet of the guide takes for granted."""
    m = small.model(**changes)
    data = fmoe.ByteDataset(small.write_text(folder))
    loader = fmoe.DataLoader(data, batch_size=4, seq_len=small.SEQ_LEN, micro_batches=2)
    return {"model": m, "opt": fmoe.AdamW(m, lr=0.01, micro_batches=2), "loader": loader}


@case
def guide() -> None:
    try:
        import numpy
    except ImportError:
        raise Skip("this Python has no numpy") from None
    loop, own, resume, classes, sums = snippets("docs/guide.md")
    with scratch() as folder:
        os.chdir(folder)  # the snippets' folders are relative
        values = run_all(loop, fmoe=fmoe, steps=3, micro_batches=2, **parts(folder))
        assert values["opt"].steps == 3

        values |= {"step": 3}
        resumed = run_all(resume.replace("ckpt.save", "step = 3; ckpt.save"), **values)
        assert resumed["ckpt"].path(3) == os.path.join("runs/mine", "step_00000003")
        resumed["ckpt"].wait()
        resumed = run_all(resume, **values)
        resumed["ckpt"].wait()
        assert resumed["step"] == 3
        assert resumed["ckpt"].steps() == [3]

        # Own tokens: 100 + 100 steps are 200 steps, and the data go on where they stood.
        for dtype in (numpy.uint16, numpy.int64):
            numpy.save("tokens.npy", (numpy.arange(1000) * 7 % 256).astype(dtype))
            weights, ends = [], []
            for legs in ((200,), (100, 200)):
                ckpt = fmoe.Checkpointer(f"runs/own{dtype.__name__}{len(legs)}")
                for steps in legs:
                    m = small.model()
                    here = {"model": m, "opt": fmoe.AdamW(m, lr=0.01), "ckpt": ckpt}
                    sizes = {"rows": 4, "length": small.SEQ_LEN, "steps": steps}
                    end = run_all(own, numpy=numpy, fmoe=fmoe, **here, **sizes)
                    ckpt.wait()
                weights.append(small.weights(m))
                ends.append((end["step"], end["at"]))
            assert weights[0] == weights[1] and ends[0] == ends[1], ends
            assert ends[0] == (200, 200 * 64 % (1000 - 64))

        defined = run_all(classes, fmoe=fmoe)
        x = fmoe.tensor([[1.0, 2.0, 3.0, 4.0]])
        assert defined["Block"](4)(x).shape == (1, 4)
        moe = fmoe.MoE(num_experts=4, d_hidden=24, gate=defined["First"])
        own_gate = parts(folder, moe=moe)
        run_all(loop, fmoe=fmoe, steps=2, micro_batches=2, **own_gate)
        (stats,) = own_gate["model"].moe_stats()
        assert stats["balance_loss"] > 0.9, stats

        x = fmoe.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
        values = run_all(sums, fmoe=fmoe, x=x, m=2, n=3)
        assert values["total"].tolist() == [[6.0], [18.0]]
        assert values["same"].tolist() == [[3.0, 4.0, 5.0]] * 2
        difference = fmoe.sum(x + values["same"] * -1.0)
        assert difference.tolist() == [0.0]


@case
def what_comes_from_where() -> None:
    """The guide's two lists of what a resumed run has from the checkpoint and from the script."""
    with scratch() as folder:
        before = parts(folder)
        before["opt"].lr = 0.005
        for _ in range(2):
            next(before["loader"])
        ckpt = fmoe.Checkpointer(os.path.join(folder, "run"))
        names = {"model": before["model"], "optimizer": before["opt"], "loader": before["loader"]}
        fmoe.manual_seed(21)
        ckpt.save(1, extra=[1], **names)
        ckpt.wait()
        m = small.model(dropout=0.5, moe=fmoe.MoE(num_experts=4, d_hidden=24, capacity_factor=1.0))
        opt = fmoe.AdamW(m, lr=0.01, schedule=fmoe.constant(5), weight_decay=0.3)
        loader = fmoe.DataLoader(before["loader"].dataset, batch_size=8, seq_len=small.SEQ_LEN)
        fmoe.manual_seed(22)
        assert ckpt.load(model=m, optimizer=opt, loader=loader) == 1
        assert small.weights(m) == small.weights(before["model"])
        assert (_fmoe.seed(), loader.position, ckpt.extra, opt.lr) == (21, 4, [1], 0.005)
        assert opt.schedule.warmup == 5 and opt.micro_batches == 1 and loader.batch_size == 8
        assert m.dropout == 0.5
        other = fmoe.AdamW(m, lr=0.02)
        ckpt.load(model=m, optimizer=other)
        assert other.lr == 0.02


@case
def every_operation_is_in_the_table() -> None:
    table = page("docs/guide.md").split("## All operations")[1].split("## ")[0]
    named = set(re.findall(r"`(?:a [+*] b`, `)?(\w+)\(", table)) - {"help"}
    about = {"device", "device_info", "manual_seed", "memory", "rank", "set_device", "world_size"}
    functions = {
        name
        for name in fmoe.__all__
        if isinstance(getattr(fmoe, name), types.BuiltinFunctionType) or name == "linear"
    }
    assert named == functions - about, sorted(named ^ (functions - about))


@case
def readme() -> None:
    (text,) = snippets("README.md")
    for long, short in (
        ("1001", "3"),
        ("% 100 ", "% 1 "),
        ("batch_size=16, seq_len=256", "batch_size=2, seq_len=16"),
        ("d_hidden=1024", "d_hidden=32"),
        ("d_model=256, n_head=8, seq_len=256", "d_model=32, n_head=8, seq_len=16"),
        ("total=1000", "total=200"),
    ):
        assert long in text, long
        text = text.replace(long, short)
    with scratch() as folder:
        os.chdir(folder)  # the snippets' folders are relative
        os.makedirs("my/texts")
        small.write_text("my/texts")
        values = run_all(text)
        values["ckpt"].wait()
        assert values["ckpt"].steps() == [1, 2]
        values = run_all(text.replace("3)", "4)"))  # goes on
        values["ckpt"].wait()
        assert values["step"] == 3


main()
