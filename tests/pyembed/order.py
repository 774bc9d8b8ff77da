"""Calls in an unusual order: between forward and backward, between backward and step."""

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


main()
