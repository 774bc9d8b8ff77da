"""A Trainer on several ranks: they stop together, and evaluate what one rank would."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import Any

from multirank import case, gather, main

import fmoe


def data() -> fmoe.ByteDataset:
    """The same bytes on each rank, in a file of its own."""
    handle, path = tempfile.mkstemp()
    os.write(handle, bytes((i * i // 7 + i) % 97 for i in range(3000)))
    os.close(handle)
    return fmoe.ByteDataset(path)


def trainer(valid: bool = False, **more: Any) -> fmoe.Trainer:
    fmoe.manual_seed(3)
    model = fmoe.GPT(vocab_size=256, n_layer=1, d_model=16, n_head=2, seq_len=16)
    batches: dict[str, Any] = {"batch_size": 4, "seq_len": 16, "split_ratio": (0.6, 0.4)}
    if valid:
        more["eval_loader"] = fmoe.DataLoader(data(), split="valid", **batches)
    return fmoe.Trainer(
        model,
        fmoe.AdamW(model, lr=1e-2),
        fmoe.DataLoader(data(), **batches),
        log_every=1000,
        **more,
    )


def same(number: float) -> bool:
    return len(set(gather(number))) == 1


@case
def a_signal_to_one_rank_stops_all() -> None:
    """The last rank is sent one in its third step; all stop after that or the next."""
    last = fmoe.rank() == fmoe.world_size() - 1
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):

        def send(values: dict[str, Any], number: int = number) -> None:
            if last and values["step"] == 3:
                os.kill(os.getpid(), number)

        run = trainer(on_step=send)
        run.fit(50)
        assert run.stopped == signal.Signals(number).name, run.stopped
        assert run.optimizer.steps == 4 and same(run.optimizer.steps), run.optimizer.steps


@case
def a_signal_during_evaluation() -> None:
    """One rank is sent it by a callback of the step: no rank goes into the evaluation alone."""

    def send(values: dict[str, Any]) -> None:
        if fmoe.rank() == 0 and values["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(valid=True, on_step=send, eval_every=2)
    result = run.fit(50)
    assert run.stopped == "SIGTERM" and run.optimizer.steps == 2, run.optimizer.steps
    assert "eval_loss" not in result


@case
def time_is_over() -> None:
    run = trainer(max_seconds=0.5)
    run.fit(10**6)
    assert run.stopped == "max_seconds" and same(run.optimizer.steps)
    assert run.optimizer.steps >= 1


@case
def evaluation_is_one_ranks() -> None:
    """Over a split whose last batch is not full: by hand, and as the Trainer does it."""
    run = trainer(valid=True)
    run.fit(3)
    evaluated = run.evaluate()
    assert same(evaluated["eval_loss"])
    alone = 0.0
    valid = run.eval_loader
    count = valid.num_samples
    assert count % 4 != 0, "the last batch has to be filled up"
    run.model.eval()
    total = targets_seen = 0.0
    valid.reset()
    with fmoe.no_grad():
        for tokens, targets in valid:
            logits = run.model.logits(tokens)
            flat = fmoe.reshape(logits, [-1, 256])
            kept = sum(t >= 0 for row in targets.tolist() for t in row)
            alone = float(fmoe.cross_entropy(flat, fmoe.reshape(targets, [-1])))
            total += alone * kept
            targets_seen += kept
    sums = fmoe.all_reduce(fmoe.tensor([total, targets_seen])).tolist()
    assert sums[1] == count * 16, sums
    assert abs(sums[0] / sums[1] - evaluated["eval_loss"]) < 1e-5, (sums, evaluated)


@case
def what_a_step_says() -> None:
    """The same on every rank; the highest stop of all."""
    run = trainer()
    tokens, targets = next(run.loader)
    run.model(tokens, targets).loss.backward()
    info = run.optimizer.step(stop=fmoe.rank())
    assert info.stop == fmoe.world_size() - 1
    assert same(info.loss) and same(info.grad_norm)


main()
