"""The MoE layer alone against a loop over tokens: routing, output, losses, every gradient."""

import unittest

from golden import close, fmoe, load, main, names, np, set_parameters


class MoeLayer(unittest.TestCase):
    def check(self, case: str) -> None:
        config, want = load("moe_layer", case)
        moe = fmoe.MoE(**config["moe"])
        layer = fmoe.MoELayer(d_model=config["d_model"], moe=moe, bias=config["bias"])
        set_parameters(layer, want)
        x = fmoe.tensor(want["x"], requires_grad=True)
        y = layer(x)
        close(y.numpy(), want["y"], "y")
        routing = layer.routing()
        indices = np.asarray(routing.indices)
        np.testing.assert_array_equal(indices, want["indices"])
        kept = indices >= 0
        close(np.asarray(routing.scores) * kept, want["scores"], "scores")
        counts = np.bincount(indices[kept], minlength=moe.num_experts)
        np.testing.assert_array_equal(np.asarray(routing.tokens_per_expert), counts)
        close(float(layer.aux_loss), want["aux_loss"], "aux_loss")
        loss = fmoe.add(fmoe.sum(fmoe.mul(y, fmoe.tensor(want["dy"]))), layer.aux_loss)
        loss.backward()
        close(x.grad.numpy(), want["grad/x"], "gradient of x")
        for name, p in layer.named_parameters():
            close(p.grad.numpy(), want["grad/" + name], f"gradient of {name}")


for case in names("moe_layer"):
    setattr(MoeLayer, f"test_{case}", lambda self, case=case: self.check(case))

if __name__ == "__main__":
    main()
