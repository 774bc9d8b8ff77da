"""Resuming is exact: 20 steps are 10 steps, a new process, and 10 more, to the last bit."""

import os
import shutil

import small
from harness import case, main, raises, run, scratch

import fmoe

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")


def train(folder: str, steps: int, *more: str) -> dict[str, str]:
    """{"1": loss of step 1, ..., "weights": hash, "stopped": ...}"""
    out = run([CHILD, folder, str(steps), *more])
    assert out.returncode == 0, out.stderr
    found = {}
    for line in out.stdout.splitlines():
        words = line.split()
        if words[:1] == ["step"] and words[2:3] == ["loss"] and len(words) == 4:
            found[words[1]] = words[3]
        elif words[:1] in (["weights"], ["stopped"]):
            found[words[0]] = " ".join(words[1:])
    return found


@case
def twenty_is_ten_and_ten() -> None:
    for dtype in ("float32", "bfloat16"):
        with scratch() as straight, scratch() as parts:
            want = train(straight, 20, "--dtype", dtype)
            first = train(parts, 10, "--dtype", dtype)
            second = train(parts, 20, "--dtype", dtype)
            assert set(first) & set(second) == {"weights", "stopped"}  # no step twice
            got = {**first, **second}
            assert got == want, f"{dtype}: {got}\n{want}"
            with open(os.path.join(parts, "metrics.jsonl"), encoding="utf-8") as lines:
                steps = [
                    line.split('"step": ')[1].split(",")[0] for line in lines if '"train"' in line
                ]
            assert steps == [str(i) for i in range(1, 21)], steps


@case
def done_is_done() -> None:
    with scratch() as folder:
        want = train(folder, 4)
        again = train(folder, 4)
        assert "1" not in again and again["weights"] == want["weights"]
        assert again["stopped"] == want["stopped"]  # evaluated once more, to the same number


@case
def other_data_is_refused() -> None:
    with scratch() as folder:
        data = fmoe.ByteDataset(small.write_text(folder))
        model = small.model()
        ckpt = fmoe.Checkpointer(os.path.join(folder, "run"))

        def load(d, **k):
            return fmoe.DataLoader(d, batch_size=2, seq_len=8, **k)

        loader = load(data)
        next(loader), next(loader)
        ckpt.save(3, model=model, loader=loader, extra={"note": [1, None]})
        fresh = load(data)
        assert ckpt.load(model=model, loader=fresh, on_corrupt="older") == 3
        assert fresh.position == loader.position == 4
        assert ckpt.extra == {"note": [1, None]}
        raises(
            fmoe.CheckpointError, lambda: ckpt.load(model=model, loader=load(data, seed=1)), "seed"
        )
        with open(os.path.join(folder, "text.txt"), "a", encoding="ascii") as out:
            out.write("more")
        other = load(fmoe.ByteDataset(os.path.join(folder, "text.txt")))
        raises(
            fmoe.CheckpointError,
            lambda: ckpt.load(model=model, loader=other, on_corrupt="older"),
            "identity",
            "allow_other_data",
        )
        assert ckpt.load(model=model, loader=other, allow_other_data=True) == 3


@case
def corrupt_and_older() -> None:
    with scratch() as folder:
        model = small.model()
        opt = fmoe.AdamW(model, lr=0.01)
        ckpt = fmoe.Checkpointer(os.path.join(folder, "run"), asynchronous=False, keep_last=2)
        weights = {}
        for step in (1, 2, 3):
            model(*small.batch()).loss.backward()
            opt.step()
            ckpt.save(step, model=model, optimizer=opt)
            weights[step] = small.weights(model)
        assert ckpt.steps() == [2, 3]
        fmoe.checkpoint_info(ckpt.path(3))
        for name in os.listdir(ckpt.path(3)):
            if name.startswith("dense"):
                damage(os.path.join(ckpt.path(3), name))
        raises(fmoe.CheckpointError, lambda: ckpt.load(model=model, optimizer=opt), "dense")
        assert ckpt.load(model=model, optimizer=opt, on_corrupt="older") == 2
        assert opt.steps == 2 and small.weights(model) == weights[2]
        tool = run(["-m", "fmoe.tools.verify", ckpt.root])
        assert tool.returncode == 1 and "BAD" in tool.stdout and "good" in tool.stdout
        shutil.rmtree(ckpt.path(3))
        tool = run(["-m", "fmoe.tools.verify", ckpt.root])
        assert tool.returncode == 0 and "BAD" not in tool.stdout, tool.stdout + tool.stderr
        shown = run(["-m", "fmoe.tools.inspect", "--arrays", ckpt.root])
        assert shown.returncode == 0, shown.stderr
        for words in ("step         2", "layers.1.moe.experts.up.weight", "4 x 24 x 16"):
            assert words in shown.stdout, f"{words} is not in {shown.stdout}"


def damage(path: str) -> None:
    """Flips a bit in every kilobyte of the file's second half: some of it is data."""
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for at in range(size // 2, size, 1024):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x10]))


@case
def modules_too() -> None:
    class Line(fmoe.Module):
        def __init__(self) -> None:
            self.w = fmoe.Parameter([1, 2])

    with scratch() as folder:
        a, b = Line(), Line()
        ckpt = fmoe.Checkpointer(folder)
        opt = fmoe.SGD(a, lr=0.1, momentum=0.9)
        fmoe.sum(fmoe.linear(fmoe.tensor([[1.0, 2.0]]), a.w)).backward()
        opt.step()
        ckpt.save(1, model=a, optimizer=opt)
        opt_b = fmoe.SGD(b, lr=0.1, momentum=0.9)
        assert ckpt.load(model=b, optimizer=opt_b) == 1
        assert a.w.tolist() == b.w.tolist() and opt_b.steps == 1
        for m, o in ((a, opt), (b, opt_b)):
            fmoe.sum(fmoe.linear(fmoe.tensor([[1.0, 2.0]]), m.w)).backward()
            o.step()
        assert a.w.tolist() == b.w.tolist()  # the momentum came along


class Noisy(fmoe.Module):
    """A model of Python's and a layer, both with random numbers."""

    def __init__(self) -> None:
        self.layer = fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=4, d_hidden=8))
        self.w = fmoe.Parameter([8, 8])

    def forward(self, x: fmoe.Tensor) -> fmoe.Tensor:
        y = fmoe.add(x, fmoe.dropout(self.layer(fmoe.linear(x, self.w)), 0.5, name="noisy"))
        return fmoe.sum(fmoe.mul(y, y))


def two_at_once(folder: str, rounds: range) -> list[str]:
    """Losses of two models with an optimiser each; the second one takes two steps a round."""
    fmoe.manual_seed(3)
    a, b = small.model(dropout=0.5, recompute="block"), Noisy()
    opt_a = fmoe.AdamW(a, lr=0.01)
    opt_b = fmoe.SGD(b, lr=0.01, momentum=0.5)
    x = fmoe.tensor([[float((i * j) % 5) for j in range(8)] for i in range(6)])
    saves = [
        (fmoe.Checkpointer(os.path.join(folder, name), asynchronous=False), model, opt)
        for name, model, opt in (("b", b, opt_b), ("a", a, opt_a))
    ]
    for ckpt, model, opt in saves:
        ckpt.load(model=model, optimizer=opt)
    losses = []
    for i in rounds:
        a(*small.batch()).loss.backward()
        losses.append(float(opt_a.step().loss).hex())
        for _ in range(2):
            b(x).backward()
            losses.append(float(opt_b.step().loss).hex())
        for ckpt, model, opt in saves:
            ckpt.save(i + 1, model=model, optimizer=opt)
    return losses


@case
def two_optimisers() -> None:
    with scratch() as straight, scratch() as parts:
        want = two_at_once(straight, range(4))
        got = two_at_once(parts, range(2)) + two_at_once(parts, range(2, 4))
        assert got == want, f"{got}\n{want}"


@case
def another_optimiser_disturbs_nothing() -> None:
    a, b = small.model(dropout=0.5), small.model(dropout=0.5)
    opt = fmoe.AdamW(a, lr=0.01)
    for _ in range(3):
        a(*small.batch()).loss.backward()
        opt.step()
    before = float(a(*small.batch()).loss)
    other = fmoe.AdamW(b, lr=0.01)
    assert float(a(*small.batch()).loss) == before
    b(*small.batch()).loss.backward()
    other.step()
    assert float(a(*small.batch()).loss) == before
    opt.steps = 4
    assert float(a(*small.batch()).loss) != before


main()
