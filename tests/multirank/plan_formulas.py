"""tools/plan_bytes.py beside fmoe: the same parameters, memory, collectives, calls and bytes."""

import os
import sys
from typing import Any

import multirank
from multirank import case

import fmoe

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tools")]

import one_step  # noqa: E402  (found by the line above)

import plan_bytes  # noqa: E402

WORLD = fmoe.world_size()
ROWS, SEQ_LEN = 8, 64  # of one_step


def planned_model(o: dict[str, Any]) -> plan_bytes.Model:
    return plan_bytes.Model(
        vocab_size=128,
        n_layer=4,
        d_model=64,
        n_head=4,
        seq_len=SEQ_LEN,
        d_hidden=96,
        glu=o.get("activation") == "swiglu",
        bfloat16=o.get("dtype") == "bfloat16",
        recompute=o.get("recompute") == "block",
        num_experts=o.get("experts", 0),
        capacity="capacity_factor" in o,
    )


def compare(**o: Any) -> None:
    model = planned_model(o)
    sizes = {name: o[name] for name in ("tp", "ep", "etp", "zero") if name in o}
    mesh = plan_bytes.Mesh(world=WORLD, **sizes)
    micro_batches = o.get("micro_batches", 1)
    sequences = ROWS * mesh.dp * micro_batches
    fact = one_step.run({"d_hidden": 96, **o})
    assert fact["parameters"] == plan_bytes.num_parameters(model), o
    assert fact["flops_per_token"] == plan_bytes.flops_per_token(model), o
    parts = plan_bytes.memory(model, mesh, sequences, micro_batches)
    for name in ("parameters", "gradients", "moments"):
        if fmoe.rank() == 0:
            assert parts[name] == fact["held"][name], (o, name, parts[name], fact["held"])
    predicted = fact["predicted"]["activations"]
    assert 0.8 * predicted < parts["activations"] <= predicted, (o, parts, predicted)

    expected: dict[tuple[str, str], list[int]] = {}
    for row in plan_bytes.traffic(model, mesh, sequences, micro_batches):
        sums = expected.setdefault((row.group, row.kind), [0, 0])
        sums[0] += row.calls
        sums[1] += row.bytes
    sent = {(row["group"], row["kind"]): row for row in fact["sent"]}
    for key, (calls, size) in expected.items():
        row = sent[key]
        few = key[0] == "tp"  # and the loss's two numbers a row
        assert row["calls"] == calls or few, (o, key, calls, row)
        if key[1] == "all_to_all_v":  # real tokens choose unevenly
            assert 0.6 < row["bytes"] / size < 1.7, (o, key, size, row)
        elif few:
            rest = row["bytes"] - size
            assert 0 <= rest <= 8 * (mesh.tp - 1) * ROWS * SEQ_LEN * micro_batches, (o, key, rest)
        else:
            assert row["bytes"] == size, (o, key, size, row)
    small = {key: row["bytes"] for key, row in sent.items() if key not in expected}
    assert sum(small.values()) < 2000 + 4 * ROWS * SEQ_LEN, (o, small)


@case
def dense() -> None:
    compare()
    compare(zero=0)
    compare(dtype="bfloat16", micro_batches=2)
    compare(activation="swiglu", recompute="block")


@case
def experts() -> None:
    compare(experts=8)
    compare(experts=8, ep=2, zero=0)
    compare(experts=8, ep=WORLD, dtype="bfloat16", recompute="block")
    compare(experts=8, ep=WORLD // 2, etp=2, capacity_factor=1.0, micro_batches=2)


@case
def tensor_parallel() -> None:
    compare(tp=2)
    compare(tp=2, recompute="block", micro_batches=2)
    compare(tp=WORLD, dtype="bfloat16")
    compare(tp=2, ep=WORLD, experts=8)


multirank.main()
