"""GPT against PyTorch: logits, losses, routing and every gradient."""

import unittest

from golden import close, fmoe, load, main, names, np, set_parameters


def make(config: dict):
    moe = fmoe.MoE(**config["moe"]) if config["moe"] else None
    return fmoe.GPT(**config["gpt"], moe=moe)


class Gpt(unittest.TestCase):
    def check(self, folder: str, case: str, **options) -> None:
        config, want = load(folder, case)
        config["gpt"].update(options)
        model = make(config)
        set_parameters(model, want)
        tokens = np.ascontiguousarray(want["tokens"], np.int32)
        targets = np.ascontiguousarray(want["targets"], np.int32)
        with fmoe.no_grad():
            close(model.logits(tokens).numpy(), want["logits"], "logits")
        out = model(tokens, targets)
        close(float(out.lm_loss), want["lm_loss"], "lm_loss")
        close(float(out.loss), want["loss"], "loss")
        out.loss.backward()
        for name, p in model.named_parameters():
            close(p.grad.numpy(), want["grad/" + name], f"gradient of {name}")


def add(folder: str, case: str, **options) -> None:
    suffix = "".join(f"_{k}_{v}" for k, v in options.items())
    setattr(Gpt, f"test_{case}{suffix}", lambda self: self.check(folder, case, **options))


for folder in ("gpt_dense", "gpt_moe"):
    for case in names(folder):
        add(folder, case)
        add(folder, case, recompute="block")

if __name__ == "__main__":
    main()
