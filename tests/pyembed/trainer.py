"""The Trainer: what it prints and writes, evaluation, callbacks, signals, NaN, kill -9."""

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings

import small
from harness import TRAIN, case, close, main, raises, run, scratch

import _fmoe
import fmoe
from fmoe.metrics import _masked_crc

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")


def parts(folder, **changes):
    data = fmoe.ByteDataset(small.write_text(folder))
    load = {"batch_size": 4, "seq_len": small.SEQ_LEN, "split_ratio": (0.9, 0.1)}
    m = small.model(**changes)
    return m, fmoe.AdamW(m, lr=0.01), fmoe.DataLoader(data, **load), (data, load)


@case
def loaders() -> None:
    with scratch() as folder:
        *_, (data, load) = parts(folder)
        train = fmoe.DataLoader(data, **load)
        tokens, targets = next(train)
        assert tokens.shape == targets.shape == (4, small.SEQ_LEN) and tokens.dtype == "int32"
        row, shifted = tokens.tolist()[0], targets.tolist()[0]
        assert row[1:] == shifted[:-1]
        with open(os.path.join(folder, "text.txt"), "rb") as file:
            assert bytes(row) in file.read()
        assert train.position == 4 and train.epoch == 0 and data.read(0, 4).tolist() == [*b"line"]
        valid = fmoe.DataLoader(data, split="valid", **load)
        count = 0
        for _, targets in valid:
            count += valid.valid
            missing = sum(row.count(-1) == small.SEQ_LEN for row in targets.tolist())
            assert missing == 4 - valid.valid
        assert count == valid.num_samples > 8
        again = [t.tolist() for t, _ in valid]  # iterating again starts over
        valid.reset()
        assert again == [t.tolist() for t, _ in valid]
        # batches do not depend on how they are cut
        whole = fmoe.DataLoader(data, **dict(load, batch_size=8), seed=3)
        halves = fmoe.DataLoader(data, **dict(load, batch_size=8), seed=3, micro_batches=2)
        assert next(whole)[0].tolist() == next(halves)[0].tolist() + next(halves)[0].tolist()
        halves.position = 0
        assert (
            next(halves)[0].tolist()
            == next(iter(fmoe.DataLoader(data, **load, seed=3)))[0].tolist()
        )


@case
def writes_what_happened() -> None:
    with scratch() as folder:
        m, opt, loader, (data, load) = parts(folder)
        heard: dict[str, list[dict]] = {"step": [], "eval": [], "save": []}
        trainer = fmoe.Trainer(
            m,
            opt,
            loader,
            eval_loader=fmoe.DataLoader(data, split="valid", **load),
            checkpointer=fmoe.Checkpointer(os.path.join(folder, "run")),
            eval_every=4,
            save_every=5,
            log_every=3,
            metrics=os.path.join(folder, "out", "metrics.jsonl"),
            on_step=heard["step"].append,
            on_eval=heard["eval"].append,
            on_save=heard["save"].append,
            extra={"why": "test"},
        )
        last = trainer.fit(12)
        assert [v["step"] for v in heard["step"]] == list(range(1, 13))
        assert [v["step"] for v in heard["eval"]] == [4, 8, 12]
        assert [v["step"] for v in heard["save"]] == [5, 10, 12]
        assert heard["eval"][-1]["eval_loss"] == last["eval_loss"] < math.log(256)
        with open(os.path.join(folder, "out", "metrics.jsonl"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        train = [line for line in lines if line["kind"] == "train"]
        assert [line["step"] for line in train] == list(range(1, 13))
        assert [line["step"] for line in train if "layers" in line] == [3, 6, 9, 12]
        numbers = ("loss", "lr", "grad_norm", "tokens_per_second", "peak_share")
        for name in (*numbers, "dropped", "not_taken", "entropy"):
            assert isinstance(train[-1][name], float), name
        assert train[-1]["dropped"] == 0 < train[-1]["not_taken"]  # gshard without a capacity
        assert [layer["dropped"] for layer in train[-1]["layers"]] == [0]
        assert train[-1]["loss"] == heard["step"][-1]["loss"]
        events = os.path.join(folder, "out", "tensorboard")
        tags = read_events(os.path.join(events, os.listdir(events)[0]))
        assert tags["train/loss"] == [(line["step"], line["loss"]) for line in train]
        assert [step for step, _ in tags["eval/loss"]] == [4, 8, 12]
        assert [step for step, _ in tags["train/not_taken"]] == [3, 6, 9, 12]
        assert trainer.fit(12)["step"] == 12  # done already


@case
def no_more_than_the_peak() -> None:
    """The yardstick is of the kernels that layers train with, and grows where it was too short."""
    _fmoe.op_times_start()
    assert _fmoe.measure_peak() > 0 and _fmoe.measure_peak("bfloat16") > 0
    used = {kernel for kernel, _, _ in _fmoe.op_times_stop()}
    products = {"linear_forward", "linear_backward_input", "linear_backward_weight"}
    assert products <= used and "gemm" not in used, used
    measure, asked = _fmoe.measure_peak, []

    def too_little(dtype: str) -> float:
        asked.append(dtype)
        return 10.0

    with scratch() as folder:
        m, opt, loader, _ = parts(folder)
        shares = []
        _fmoe.measure_peak = too_little
        try:
            trainer = fmoe.Trainer(m, opt, loader, log_every=1, metrics=folder + "/m.jsonl")
            trainer.fit(4)
        finally:
            _fmoe.measure_peak = measure
        with open(folder + "/m.jsonl", encoding="utf-8") as file:
            shares = [json.loads(line).get("peak_share") for line in file]
        assert max(shares) == 1 and min(shares) > 0, shares  # the fastest step is the peak
        assert len(asked) >= 2 and set(asked) == {"float32"}, asked


def read_events(path: str) -> dict[str, list[tuple[int, float]]]:
    """The scalars of an event file, its checksums checked."""
    with open(path, "rb") as file:
        data = file.read()
    tags: dict[str, list[tuple[int, float]]] = {}
    at = 0
    while at < len(data):
        (n,) = struct.unpack_from("<Q", data, at)
        assert data[at + 8 : at + 12] == _masked_crc(data[at : at + 8])
        event = data[at + 12 : at + 12 + n]
        assert data[at + 12 + n : at + 16 + n] == _masked_crc(event)
        at += 16 + n
        fields = dict(read_message(event))
        if 5 in fields:
            value = dict(read_message(dict(read_message(fields[5]))[1]))
            (number,) = struct.unpack("<f", value[2])
            want = tags.setdefault(value[1].decode(), [])
            want.append((fields[2], number))
    return {k: [(s, round_to(v)) for s, v in rows] for k, rows in tags.items()}


class round_to(float):
    """A float32, equal to the double it was rounded from."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - other) <= 1e-6 * max(1.0, abs(other))


def read_message(data: bytes):
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            n = {1: 8, 5: 4}.get(key & 7) or varint()
            yield key >> 3, data[at : at + n]
            at += n


@case
def checksum_of_tensorboard() -> None:
    """The published check value of CRC-32C, masked as TFRecord does."""
    crc = 0xE3069283  # of "123456789"
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc(b"123456789") == struct.pack("<I", masked)


@case
def evaluates_every_sample_once() -> None:
    with scratch() as folder:
        m, opt, loader, (data, load) = parts(folder)
        results = []
        for size in (4, 5, 64):  # the last batch is short, or there is but one
            valid = fmoe.DataLoader(data, split="valid", **dict(load, batch_size=size))
            results.append(fmoe.Trainer(m, opt, loader, eval_loader=valid).evaluate())
        assert {r["samples"] for r in results} == {valid.num_samples}
        close([r["eval_loss"] for r in results], [results[0]["eval_loss"]] * 3, 1e-5)
        assert m.training
        valid.reset()
        one = fmoe.DataLoader(data, split="valid", **dict(load, batch_size=1))
        m.eval()
        alone = [float(m(t, u).lm_loss) for t, u in one]
        close(results[0]["eval_loss"], sum(alone) / len(alone), 1e-5)


@case
def stops_at_nan() -> None:
    with scratch() as folder:
        m, opt, loader, _ = parts(folder)
        trainer = fmoe.Trainer(m, opt, loader, log_every=100)
        trainer.fit(3)
        gain = dict(m.named_parameters())["layers.0.norm1.weight"]
        good = gain.tolist()
        gain.copy_([math.inf] * 16)
        text = raises(FloatingPointError, lambda: trainer.fit(10), "step 4")
        assert "nan" in text or "inf" in text or "layers" in text, text
        assert opt.steps == 3
        gain.copy_(good)


class Exploding(fmoe.Module):
    """Its loss is infinite at the calls that it is told."""

    def __init__(self, bad: set[int]) -> None:
        self.w = fmoe.Parameter([1, 1], init=1.0)
        self.bad, self.calls = bad, 0

    def forward(self, tokens, targets):
        self.calls += 1
        y = fmoe.sum(fmoe.linear(fmoe.tensor([[1.0]]), self.w))
        return y * (math.inf if self.calls in self.bad else 1.0)


@case
def bears_some_nans() -> None:
    with scratch() as folder:
        _, _, loader, _ = parts(folder)
        bearable = Exploding({2, 3, 6})
        opt = fmoe.SGD(bearable, lr=0.1)
        skipped = []
        fmoe.Trainer(
            bearable,
            opt,
            loader,
            max_skipped_steps=2,
            on_step=lambda v: skipped.append(v["skipped"]),
        ).fit(5)
        assert skipped == [False, True, True, False, False, True, False, False]
        assert opt.steps == 5
        close(bearable.w.tolist(), [[1.0 - 5 * 0.1]], 1e-6)
        worse = Exploding({2, 3, 4})
        opt = fmoe.SGD(worse, lr=0.1)
        trainer = fmoe.Trainer(worse, opt, loader, max_skipped_steps=2)
        raises(FloatingPointError, lambda: trainer.fit(5), "step 2", "max_skipped_steps=2")


@case
def metrics_are_json() -> None:
    """RFC 8259 has no NaN: a skipped step's numbers are null."""
    with scratch() as folder:
        _, _, loader, _ = parts(folder)
        m = Exploding({2})
        path = os.path.join(folder, "m.jsonl")
        fmoe.Trainer(m, fmoe.SGD(m, lr=0.1), loader, max_skipped_steps=1, metrics=path).fit(2)

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line, parse_constant=refuse) for line in lines]
        assert [row["skipped"] for row in rows if row["kind"] == "train"] == [False, True, False]
        assert rows[1]["grad_norm"] is None


def start(folder: str, steps: int, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [TRAIN, CHILD, folder, str(steps), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, step: int) -> None:
    for line in process.stdout:
        if line.startswith(f"step {step} loss"):
            return
    raise AssertionError(f"it ended before step {step}: {process.stderr.read()}")


def summary(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("weights", "stopped"))]


@case
def signals_save_and_stop() -> None:
    with scratch() as straight, scratch() as folder:
        want = summary(run([CHILD, straight, "12"]).stdout)
        for number, at in ((signal.SIGTERM, 3), (signal.SIGINT, 6)):
            process = start(folder, 12, "--sleep", "0.05")
            wait_for(process, at)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            name = signal.Signals(number).name
            assert f"stopped by {name}" in out and f"stopped {name}" in out, out
        assert "step 1 loss" not in out  # it had resumed
        rest = run([CHILD, folder, "12"])
        assert summary(rest.stdout) == want, rest.stdout + rest.stderr


@case
def a_signal_while_a_callback_generates() -> None:
    """generate() is finished, the step too, and the run is saved."""
    with scratch() as folder:
        m, opt, loader, _ = parts(folder)
        texts = []

        def sample(values: dict) -> None:
            if values["step"] == 2:
                timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                texts.append(m.generate(b"line", max_new_tokens=3000))
                timer.join()

        store = fmoe.Checkpointer(os.path.join(folder, "run"))
        trainer = fmoe.Trainer(m, opt, loader, checkpointer=store, on_step=sample, log_every=100)
        trainer.fit(9)
        assert trainer.stopped == "SIGINT" and opt.steps == 2 and store.steps() == [2]
        assert len(texts[0]) == 3004


@case
def kill_and_resume() -> None:
    """kill -9 at any instant: the next run goes on, and ends where an undisturbed one does."""
    seed = int(os.environ.get("FMOE_TEST_SEED", "0")) or 20240607
    chance = random.Random(seed)
    with scratch() as straight, scratch() as folder:
        want = summary(run([CHILD, straight, "24", "--save-every", "1"]).stdout)
        kills = 0
        while True:
            process = start(folder, 24, "--save-every", "1", "--sleep", "0.02")
            try:
                process.wait(timeout=chance.uniform(0.2, 0.9))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
            assert kills < 200, f"it does not get on (seed {seed})"
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert kills >= 1, f"it was never killed (seed {seed})"
        assert summary(out) == want, f"seed {seed}, {kills} kills:\n{out}{err}"


@case
def no_bar_in_a_pipe() -> None:
    with scratch() as folder:
        out = run([CHILD, folder, "2"])
        assert "\r" not in out.stdout and "\x1b" not in out.stdout
        for words in ("parameters", "memory:", "predicted", "bits/byte", "tokens/s", "saved"):
            assert words in out.stdout, f"{words} is not in {out.stdout}"


@case
def a_bar_on_a_terminal() -> None:
    import pty

    with scratch() as folder:
        parent, child = pty.openpty()
        process = subprocess.Popen([TRAIN, CHILD, folder, "30", "--sleep", "0.02"], stdout=child)
        os.close(child)
        seen = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        process.wait(timeout=60)
        os.close(parent)
        assert process.returncode == 0 and b"\r\x1b[K[#" in seen, seen[-500:]


@case
def thread_without_signals() -> None:
    """fit() works in a thread, where Python cannot install handlers."""
    import threading

    with scratch() as folder:
        m, opt, loader, _ = parts(folder)
        trainer = fmoe.Trainer(m, opt, loader)
        thread = threading.Thread(target=lambda: trainer.fit(2))
        thread.start()
        thread.join()
        assert opt.steps == 2


def steps_in(path: str) -> list[int]:
    with open(path, encoding="utf-8") as lines:
        return [row["step"] for row in map(json.loads, lines) if row["kind"] == "train"]


@case
def going_back_and_on() -> None:
    """What is on disk at the end is the branch that was gone, in the metrics too."""
    with scratch() as folder:
        m, opt, loader, _ = parts(folder)
        store = fmoe.Checkpointer(os.path.join(folder, "run"))
        path = os.path.join(folder, "m.jsonl")
        trainer = fmoe.Trainer(
            m, opt, loader, checkpointer=store, save_every=5, metrics=path, log_every=100
        )
        trainer.fit(10)
        assert store.load(model=m, optimizer=opt, loader=loader, step=5) == 5
        opt.lr = 0.001
        with warnings.catch_warnings(record=True):  # step 10 is set aside
            trainer.fit(10)
        again = small.model()
        assert store.load(model=again) == 10
        assert small.weights(again) == small.weights(m)
        assert steps_in(path) == list(range(1, 11))


@case
def metrics_of_another_run() -> None:
    """They are put aside, never deleted."""
    with scratch() as folder:
        path = os.path.join(folder, "m.jsonl")
        for run_number in range(3):
            m, opt, loader, _ = parts(folder)
            store = fmoe.Checkpointer(os.path.join(folder, f"run{run_number}"))
            fmoe.Trainer(
                m, opt, loader, checkpointer=store if run_number else None, metrics=path
            ).fit(2 + run_number)
        assert steps_in(path) == [1, 2, 3, 4]
        assert steps_in(path + ".2") == [1, 2, 3]
        assert steps_in(path + ".1") == [1, 2]


class KeepsAll(fmoe.Gate):
    def forward(self, x, token_ids=None):
        scores = fmoe.tensor([[0.5, 0.5]] * x.shape[0])
        return fmoe.tensor([[0, 1]] * x.shape[0]), scores, None


@case
def a_gate_that_was_renamed() -> None:
    with scratch() as folder:
        data = small.write_text(folder)
        store = fmoe.Checkpointer(os.path.join(folder, "run"))

        def run_of(name: str, **changes):
            gate = type(name, (KeepsAll,), {})
            m = small.model(moe=fmoe.MoE(num_experts=4, d_hidden=8, gate=gate))
            loader = fmoe.DataLoader(fmoe.ByteDataset(data), batch_size=2, seq_len=8)
            return fmoe.Trainer(m, fmoe.SGD(m, lr=0.1), loader, checkpointer=store, **changes)

        run_of("Before").fit(2)
        raises(fmoe.CheckpointError, lambda: run_of("After").fit(4), "'Before'", "'After'")
        trainer = run_of("After", allow_other_model=True)
        trainer.fit(4)
        assert trainer.optimizer.steps == 4


assert sys.flags.optimize == 0
main()
