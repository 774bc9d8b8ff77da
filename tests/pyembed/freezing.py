"""Parameters that are not trained: requires_grad = False, as in PyTorch."""

import small
from harness import case, main

import fmoe


@case
def only_the_head_learns() -> None:
    for recompute in ("none", "block"):
        m = small.model(tie_embeddings=False, recompute=recompute)
        opt = fmoe.AdamW(m, lr=0.01)
        m(*small.batch()).loss.backward()
        opt.step()  # so that there are moments
        for name, p in m.named_parameters():
            p.requires_grad = name == "head.weight"
        before = small.weights(m)
        for _ in range(3):
            m(*small.batch()).loss.backward()
            opt.step()
        after = small.weights(m)
        moved = [name for name in before if before[name] != after[name]]
        assert moved == ["head.weight"], moved


@case
def one_layer_inside_learns() -> None:
    norms = []
    for recompute in ("none", "block"):
        m = small.model(recompute=recompute)
        opt = fmoe.SGD(m, lr=0.1, weight_decay=0.1)
        for name, p in m.named_parameters():
            p.requires_grad = name == "layers.0.mlp.up.weight"
        before = small.weights(m)
        m(*small.batch()).loss.backward()
        norms.append(opt.step().grad_norm)
        after = small.weights(m)
        moved = [name for name in before if before[name] != after[name]]
        assert moved == ["layers.0.mlp.up.weight"], moved
    assert norms[0] == norms[1] > 0, norms


main()
