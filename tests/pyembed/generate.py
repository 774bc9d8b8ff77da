"""Generation with a cache gives what the whole forward gives."""

import small
from harness import case, main

import fmoe


def greedy(m: fmoe.GPT, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        last = m.logits([tokens]).tolist()[0][-1]
        tokens.append(max(range(len(last)), key=last.__getitem__))
    return tokens


@case
def cached_equals_uncached() -> None:
    for options in (
        {},
        {"position": "rope", "norm": "rmsnorm", "n_kv_head": 1, "bias": False},
        {"moe": fmoe.MoE(num_experts=4, d_hidden=24, gate="switch", capacity_factor=0.5)},
        {"dtype": "bfloat16"},
    ):
        m = small.model(seq_len=32, **options)
        opt = fmoe.AdamW(m, lr=0.01)
        for _ in range(10):  # away from the start, where logits are nearly equal
            m(*small.batch()).loss.backward()
            opt.step()
        m.eval()
        prompt = [3, 1, 4, 1, 5]
        want = greedy(m, prompt, 20)
        assert m.generate(prompt, 20, temperature=0.0).tolist() == [want], options


@case
def neighbours_do_not_matter() -> None:
    m = small.model()
    rows = [[1, 2, 3], [9, 8, 7], [4, 4, 4]]
    together = m.generate(rows, 8, temperature=0.0).tolist()
    assert together == [m.generate(row, 8, temperature=0.0).tolist()[0] for row in rows]


@case
def the_window_slides() -> None:
    m = small.model()
    out = m.generate([1, 2, 3], 5 * small.SEQ_LEN, seed=3).tolist()
    assert len(out[0]) == 3 + 5 * small.SEQ_LEN and out[0][:3] == [1, 2, 3]
    assert all(0 <= token < 256 for token in out[0])
    assert m.generate(list(range(40)), 2, seed=3).shape == (1, 42)


@case
def seeds_repeat() -> None:
    m = small.model()
    a = m.generate(b"abc", 30, temperature=1.0, seed=1)
    assert isinstance(a, bytes) and a[:3] == b"abc" and len(a) == 33
    assert a == m.generate(b"abc", 30, temperature=1.0, seed=1)
    assert a != m.generate(b"abc", 30, temperature=1.0, seed=2)


@case
def training_goes_on_as_before() -> None:
    losses = []
    for interrupt in (False, True):
        m = small.model(dropout=0.1)
        opt = fmoe.AdamW(m, lr=0.01)
        for _ in range(3):
            m(*small.batch()).loss.backward()
            opt.step()
            if interrupt:
                m.generate(b"x", 5)
        losses.append(float(m(*small.batch()).loss))
        assert m.training
    assert losses[0] == losses[1]


main()
