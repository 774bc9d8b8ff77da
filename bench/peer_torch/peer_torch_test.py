"""The peer computes what it claims, and its search and server keep their word.

python bench/peer_torch/peer_torch_test.py
"""

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
import unittest

import measure
import search
from setting import MEMORY, Setting
from shapes import SHAPES, flops_per_token

HAS_TORCH = importlib.util.find_spec("torch") is not None
SMALL = dataclasses.replace(
    SHAPES["S"], n_layer=2, d_model=16, n_head=2, seq_len=8, batch_size=2, d_hidden=24
)


class FlopsTest(unittest.TestCase):
    def test_by_hand(self) -> None:
        """One dense and one MoE layer of SMALL, written out."""
        d, h, s = 16, 24, 8
        attention = 2 * d * (3 * d) + 2 * d * d + 2 * 2 * d * (s + 1) / 2
        dense, experts = 2 * (2 * d * h), 2 * (2 * (2 * d * h)) + 2 * d * 8
        head = 2 * d * 256
        self.assertEqual(flops_per_token(SMALL, True), 3 * (2 * attention + dense + experts + head))
        self.assertEqual(flops_per_token(SMALL, False), 3 * (2 * attention + 2 * dense + head))


class StepsTest(unittest.TestCase):
    def test_disturbed_steps_do_not_count(self) -> None:
        steps = [measure.Step(1.0, 0.01)] * 6 + [measure.Step(9.0, 0.9)] * 7
        result = measure.report("S", False, steps)
        self.assertEqual((result["step_s"], result["steps_used"], result["steps"]), (1.0, 6, 13))

    def test_the_least_disturbed_where_none_is_quiet(self) -> None:
        steps = [measure.Step(float(i), i / 10) for i in range(1, 10)]
        result = measure.report("S", False, steps)
        self.assertEqual((result["steps_used"], result["step_s"], result["others"]), (5, 3.0, 0.3))


class SearchTest(unittest.TestCase):
    def find(self, rates: dict[tuple[str, str], float], moe: bool = True) -> Setting:
        def fake(setting: Setting) -> measure.Report:
            rate = sum(rates.get(item, 0.0) for item in dataclasses.asdict(setting).items())
            return {"tokens_per_s": 100 + rate} if rate >= 0 else {"error": "fails"}

        finder = search.Search(fake, lambda setting, result: None)
        return finder.run(moe, "bf16", ("shipped", "avx512"))[0]

    def test_finds_the_best_of_each_field(self) -> None:
        best = {"experts": "loop", "memory": "huge_pages", "attention": "math", "bf16": "weights"}
        best |= {"mkl": "avx512", "cores": "bound"}
        found = self.find(dict.fromkeys(best.items(), 1.0))
        self.assertEqual(dataclasses.asdict(found) | best, dataclasses.asdict(found))

    def test_passes_over_failures(self) -> None:
        found = self.find({("experts", form): -9.0 for form in ("sort", "grouped_mm")})
        self.assertIn(found.experts, ("sort_in_place", "loop"))

    def test_nothing_works(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "no setting works"):
            self.find({("experts", form): -9.0 for form in search.FORMS})

    def test_cache(self) -> None:
        self.assertEqual(Setting.from_json(Setting(memory="keep").to_json()).memory, "keep")
        for memory in MEMORY:
            self.assertEqual(Setting(memory=memory).environment(2)["OMP_NUM_THREADS"], "2")


@unittest.skipUnless(HAS_TORCH, "torch is not installed")
class ModelTest(unittest.TestCase):
    def test_every_form_gives_the_same_loss_and_gradients(self) -> None:
        import torch

        from model import GPT
        from moe import EXPERTS

        self.assertEqual(tuple(EXPERTS), search.FORMS)
        tokens = torch.randint(256, (2, 2, 8), generator=torch.Generator().manual_seed(1))
        results = {}
        for form in EXPERTS:
            torch.manual_seed(2)
            model = GPT(SMALL, form)
            loss = model(tokens[0], tokens[1])
            loss.backward()
            results[form] = [loss, *(p.grad for p in model.parameters())]
        for form, result in results.items():
            with self.subTest(form=form):
                torch.testing.assert_close(result, results["loop"], rtol=1e-4, atol=1e-6)

    def test_bf16_forms_train_alike(self) -> None:
        import trainer

        for experts in (None, "sort_in_place"):
            losses = []
            for dtype, bf16 in (("fp32", "autocast"), ("bf16", "autocast"), ("bf16", "weights")):
                setting = Setting(experts=experts, bf16=bf16, attention="math")
                runner = trainer.Trainer(SMALL, setting, dtype)
                losses.append([runner.step().item() for _ in range(5)])
            for loss in losses[1:]:
                for a, b in zip(loss, losses[0], strict=True):
                    self.assertAlmostEqual(a, b, delta=0.01)
            self.assertLess(losses[0][-1], losses[0][0])

    def test_server(self) -> None:
        main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
        command = [sys.executable, main, "--model", "S", "--steps-server"]
        command += ["--setting", Setting(memory="keep").to_json()]
        talk = "run 2\nwalk\nrun 0\nquit\nrun 3\n"
        done = subprocess.run(command, input=talk, capture_output=True, text=True, timeout=300)
        lines = [json.loads(line) for line in io.StringIO(done.stdout)]
        self.assertEqual(len(lines), 4, done.stderr)
        self.assertTrue(lines[0]["ready"])
        self.assertEqual(lines[0]["setting"]["memory"], "keep")
        self.assertEqual(len(lines[1]["times"]), 2)
        self.assertIn("'walk'", lines[2]["error"])
        self.assertIn("N >= 1", lines[3]["error"])


if __name__ == "__main__":
    unittest.main()
