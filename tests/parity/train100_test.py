"""100 training steps equal PyTorch's: losses, gradient norms, learning rates, final weights."""

import unittest

from golden import close, fmoe, load, main, names, np, set_parameters

# The golden folder's tolerance is 1e-5. In `naive` two experts come within rounding of a tie for
# one token at step 50, which decides differently here: 2e-5 on losses, 3e-5 on norms from there on.
RTOL = {"naive": 1e-4, "switch": 1e-5}


class Train100(unittest.TestCase):
    def check(self, case: str) -> None:
        config, want = load("train100", case)
        model = fmoe.GPT(**config["gpt"], moe=fmoe.MoE(**config["moe"]))
        set_parameters(model, want)
        adamw = dict(config["adamw"], betas=tuple(config["adamw"]["betas"]))
        lr = adamw.pop("lr")
        schedule = fmoe.cosine(**config["schedule"])
        opt = fmoe.AdamW(model, lr=lr, **adamw, schedule=schedule)
        for step, batch in enumerate(want["tokens"].astype(np.int32)):
            out = model(np.ascontiguousarray(batch[:, :-1]), np.ascontiguousarray(batch[:, 1:]))
            lm_loss, loss = float(out.lm_loss), float(out.loss)
            out.loss.backward()
            info = opt.step()
            at = f"step {step + 1}"
            close(lm_loss, want["lm_loss"][step], f"{at}: lm_loss", rtol=RTOL[case])
            close(loss, want["loss"][step], f"{at}: loss", rtol=RTOL[case])
            close(info.loss, want["lm_loss"][step], f"{at}: info.loss", rtol=RTOL[case])
            close(info.grad_norm, want["grad_norm"][step], f"{at}: grad_norm", rtol=RTOL[case])
            close(info.lr, want["lr"][step], f"{at}: lr", rtol=1e-6)
        for name, p in model.named_parameters():
            if "final/" + name in want:  # key biases have no true gradient: left out there
                end = want["final/" + name]
                off = np.linalg.norm(p.numpy() - end) / np.linalg.norm(end)
                self.assertLess(off, 10 * RTOL[case], f"final {name}, in Frobenius norm")


for case in names("train100"):
    setattr(Train100, f"test_{case}", lambda self, case=case: self.check(case))

if __name__ == "__main__":
    main()
