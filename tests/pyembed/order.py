"""Calls in an unusual order: between forward and backward, between backward and step."""

import os
import subprocess
import tempfile

from harness import case, main, raises

import fmoe

TOKENS = [[1, 2, 3]]


def made(**options):
    fmoe.manual_seed(3)
    return fmoe.GPT(vocab_size=16, n_layer=2, d_model=8, n_head=2, seq_len=8, **options)


@case
def load_forgets_the_step_that_was_begun() -> None:
    m = made()
    opt = fmoe.AdamW(m, lr=1e-3)
    store = fmoe.Checkpointer(tempfile.mkdtemp())
    store.save(0, model=m, optimizer=opt)
    store.wait()
    m(TOKENS, TOKENS).loss.backward()
    norm = opt.step().grad_norm
    m(TOKENS, TOKENS).loss.backward()
    store.load(model=m, optimizer=opt)
    m(TOKENS, TOKENS).loss.backward()
    assert opt.step().grad_norm == norm


@case
def no_grad_may_be_entered_again() -> None:
    m, off = made(), fmoe.no_grad()
    with off, off:
        pass
    m(TOKENS, TOKENS).loss.backward()


def norm_of(recompute: str, two_forwards_first: bool) -> float:
    m = made(dropout=0.5, recompute=recompute)
    opt = fmoe.AdamW(m, lr=1e-3, micro_batches=2)
    first = m(TOKENS, TOKENS)
    if two_forwards_first:
        second = m(TOKENS, TOKENS)
        first.loss.backward()
    else:
        m.eval()
        first.loss.backward()
        m.train()
        second = m(TOKENS, TOKENS)
    second.loss.backward()
    return opt.step().grad_norm


@case
def recomputation_repeats_the_first_pass() -> None:
    for two_forwards_first in (False, True):
        plain = norm_of("none", two_forwards_first)
        assert norm_of("block", two_forwards_first) == plain, two_forwards_first


@case
def what_is_saved_can_be_loaded() -> None:
    m, store = made(), fmoe.Checkpointer(tempfile.mkdtemp())
    raises(ValueError, lambda: store.save(1, model=m, extra="x" * (17 << 20)), "extra")


@case
def another_model_is_refused() -> None:
    store = fmoe.Checkpointer(tempfile.mkdtemp())
    deep, shallow = made(), fmoe.GPT(vocab_size=16, n_layer=1, d_model=8, n_head=2, seq_len=8)
    opt, other = fmoe.AdamW(deep, lr=1e-3), fmoe.AdamW(shallow, lr=1e-3)
    raises(ValueError, lambda: store.save(1, model=deep, optimizer=other), "no parameter of")
    store.save(1, model=deep, optimizer=opt)
    raises(fmoe.CheckpointError, lambda: store.load(model=shallow), "of another model")
    raises(ValueError, lambda: store.load(model=deep, optimizer=other), "no parameter of")
    assert store.load(model=deep, optimizer=opt) == 1


@case
def a_step_half_done_is_not_saved() -> None:
    m, store = made(), fmoe.Checkpointer(tempfile.mkdtemp())
    opt = fmoe.AdamW(m, lr=1e-3, micro_batches=2)
    m(TOKENS, TOKENS).loss.backward()
    raises(RuntimeError, lambda: store.save(1, model=m, optimizer=opt), "1 of 2 micro-batches")
    m(TOKENS, TOKENS).loss.backward()
    opt.step()
    store.save(1, model=m, optimizer=opt)
    store.wait()


def loader_of(path: str, **options):
    return fmoe.DataLoader(fmoe.ByteDataset(path), batch_size=2, seq_len=8, **options)


@case
def another_split_is_refused() -> None:
    folder = tempfile.mkdtemp()
    with open(folder + "/text", "w", encoding="ascii") as f:
        f.write("abcdefgh" * 100)
    m, store = made(), fmoe.Checkpointer(folder + "/run")
    store.save(1, model=m, loader=loader_of(folder + "/text"))
    half = loader_of(folder + "/text", split_ratio=(0.5, 0.5))
    raises(fmoe.CheckpointError, lambda: store.load(model=m, loader=half), "num_samples")
    assert store.load(model=m, loader=half, allow_other_data=True) == 1
    store.save(2, model=m)
    raises(fmoe.CheckpointError, lambda: store.load(model=m, loader=half), "without a loader")
    train, valid = loader_of(folder + "/text"), loader_of(folder + "/text", split="valid")
    opt = fmoe.AdamW(m, lr=1e-3)
    raises(ValueError, lambda: fmoe.Trainer(m, opt, valid), "split='valid'")
    raises(ValueError, lambda: fmoe.Trainer(m, opt, train, eval_loader=train), "no end")


@case
def a_forked_child_leaves_the_save_alone() -> None:
    m, store = made(), fmoe.Checkpointer(tempfile.mkdtemp())
    for step in range(5):
        store.save(step, model=m)
        child = os.fork()
        if child == 0:
            status = 0
            try:
                store.wait()
                store.save(99, model=m)
                status = 1
            except RuntimeError:
                pass
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, "the child could save"
        store.wait()
        assert store.load(model=m) == step


FAILS_AT_EXIT = """
import fmoe, resource, sys
m = fmoe.GPT(vocab_size=256, n_layer=2, d_model=64, n_head=2, seq_len=8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
def save():
    fmoe.Checkpointer(sys.argv[1]).save(1, model=m)
save()
"""


@case
def a_save_that_fails_at_the_end_is_a_failure() -> None:
    folder = tempfile.mkdtemp()
    done = subprocess.run(
        [os.path.realpath("/proc/self/exe"), "-c", FAILS_AT_EXIT, folder],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "was not saved" in done.stderr, done.stderr
    assert not [name for name in os.listdir(folder) if name.startswith("step_")]


main()
