"""A run saved on one mesh goes on on another with the losses of the unbroken run on one rank.

checkpoint_resume.py MPIRUN TRAIN ring|all
"""

import os
import shutil
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import checkpoint_job as job  # noqa: E402  (found by the lines above)

import cases  # noqa: E402

WHICH = sys.argv[3]
del sys.argv[1:4]

HALF, ALL = 4, 8
TOLERANCE = 1e-4


class Resume(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        straight = cls.make("straight")
        cls.want = job.run("one", straight, ALL)
        for mesh in job.MESHES:
            job.run(mesh, cls.make(mesh), HALF)

    @classmethod
    def make(cls, name: str) -> str:
        path = os.path.join(cls.folder, name)
        os.mkdir(path)
        job.write_text(path)
        return path

    def go_on(self, saved: str, loaded: str) -> dict[int, float]:
        path = os.path.join(self.folder, f"{saved}_{loaded}")
        shutil.copytree(os.path.join(self.folder, saved), path)
        got = job.run(loaded, path, ALL)
        shutil.rmtree(path)
        self.assertEqual(list(got), list(range(HALF + 1, ALL + 1)))
        return got

    def test_other_meshes(self):
        names = list(job.MESHES)
        for i, saved in enumerate(names):
            # each mesh is saved once and loaded once
            for loaded in names if WHICH == "all" else [names[(i + 1) % len(names)]]:
                with self.subTest(saved=saved, loaded=loaded):
                    far, step = job.furthest(self.go_on(saved, loaded), self.want)
                    self.assertLess(far, TOLERANCE, f"step {step}")

    def test_the_same_mesh(self):
        """To the last bit."""
        for mesh in ("one", "dp4-ep2"):
            with self.subTest(mesh=mesh):
                straight = job.run(mesh, self.make(f"{mesh}-straight"), ALL)
                got = self.go_on(mesh, mesh)
                self.assertEqual(got, {step: straight[step] for step in got})


if __name__ == "__main__":
    cases.main()
