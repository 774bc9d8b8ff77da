"""Who keeps whom alive: losses models, gates in a circle with their models, threads at exit."""

import gc
import weakref

import small
from harness import case, main, raises, run, scratch

import fmoe


class Gate(fmoe.Gate):
    def __init__(self, d_model: int, num_experts: int, top_k: int) -> None:
        super().__init__(d_model, num_experts, top_k)
        self.weight = fmoe.Parameter([num_experts, d_model])
        made.append(self)

    def forward(self, x, token_ids=None):
        values, indices = fmoe.top_k(fmoe.linear(x, self.weight), self.top_k)
        return indices, fmoe.softmax(values), None


made: list[Gate] = []


def with_gate(**changes):
    made.clear()
    return small.model(moe=fmoe.MoE(num_experts=4, d_hidden=8, gate=Gate), **changes)


@case
def a_loss_outlives_its_model() -> None:
    """A recomputed block runs again in backward, when only the loss is left."""
    want = []
    for keep in (True, False):
        m = with_gate(recompute="block")
        tokens, targets = small.batch()
        logits = fmoe.reshape(m.logits(tokens), (32, 256))
        loss = fmoe.cross_entropy(logits, fmoe.tensor([t for row in targets for t in row]))
        weight = m.named_parameters()[0][1] if keep else None
        if not keep:
            del m, logits
            made.clear()
            gc.collect()
            others = [small.model(recompute="block", seed=i) for i in range(3)]
            assert others
        loss.backward()
        want.append(loss.item())
        if weight is not None:
            assert any(x != 0 for row in weight.grad.tolist() for x in row)
    assert want[0] == want[1]


@case
def a_gate_may_know_its_model() -> None:
    m = with_gate()
    names = [name for name, _ in m.named_parameters()]
    count = m.num_parameters()
    assert [gate.layer for gate in made] == [1]
    made[0].model, made[0].parameters = m, m.named_parameters()
    assert [name for name, _ in m.named_parameters()] == names
    assert m.num_parameters() == count
    optimizer = fmoe.AdamW(m, lr=0.01)
    m(*small.batch()).loss.backward()
    optimizer.step()
    gone = weakref.ref(made[0])
    made.clear()
    del m, optimizer
    gc.collect()
    assert gone() is None, "the circle of gate and model was not freed"


@case
def a_layer_of_its_own_has_no_number() -> None:
    made.clear()
    layer = fmoe.MoELayer(d_model=8, moe=fmoe.MoE(num_experts=4, d_hidden=8, gate=Gate))
    assert made[0].layer is None
    made[0].home = layer
    gone = weakref.ref(made[0])
    made.clear()
    del layer
    gc.collect()
    assert gone() is None


@case
def modules_in_a_circle() -> None:
    class Part(fmoe.Module):
        def __init__(self) -> None:
            self.w = fmoe.Parameter((2,))

    a, b = Part(), Part()
    a.child, b.parent = b, a
    assert [name for name, _ in a.named_parameters()] == ["w", "child.w"]
    a.eval()
    assert not a.training and not b.training


@case
def what_a_weighted_loss_reports() -> None:
    """info.loss is the mean lm_loss, whatever the script makes of out.loss."""
    m = small.model()
    optimizer = fmoe.AdamW(m, lr=0.01)
    out = m(*small.batch())
    (out.loss * 0.5 + fmoe.tensor([3.0]) * 2.0).backward()
    assert abs(optimizer.step().loss - out.lm_loss.item()) < 1e-6


@case
def a_slash_in_a_name() -> None:
    class Odd(fmoe.Module):
        def __init__(self) -> None:
            self.parts = {"a/b": fmoe.Parameter((2,))}

    with scratch() as folder:
        store = fmoe.Checkpointer(folder)
        raises(ValueError, lambda: store.save(1, model=Odd()), "'parts.a/b'", "'/'")


COMPUTES_ON = """
import threading, time
import fmoe
m = fmoe.GPT(vocab_size=256, n_layer=2, d_model=64, n_head=2, seq_len=64)
optimizer = fmoe.AdamW(m, lr=1e-3)
ready = threading.Event()
def work():
    while True:
        m([list(range(64))], [list(range(64))]).loss.backward()
        optimizer.step()
        ready.set()
threading.Thread(target=work, daemon=True).start()
ready.wait()
print("end")
"""


@case
def a_daemon_thread_at_the_end() -> None:
    for _ in range(5):
        done = run(["-c", COMPUTES_ON], timeout=60)
        assert done.returncode == 0 and done.stdout == "end\n", (done.returncode, done.stderr)


main()
