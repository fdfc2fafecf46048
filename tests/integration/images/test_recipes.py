"""The recipes of ci/recipes: read by linters, and their shell parts executed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.engine import Endpoint, connect
from orchestrator.engine.docker import Engine
from tests.support.image_case import ImageTestCase
from tests.support.processes import run_command
from tests.support.registries import PROGRAM, free_port, wait_for_port
from tests.support.small_daemon import SmallDaemon, small_daemon
from tests.support.tiny_images import tiny_image

RECIPES = Path(__file__).parents[3] / "ci" / "recipes"
USERS_TEST = """
import unittest

class UsersTest(unittest.TestCase):
    def test_something(self) -> None:
        pass
"""


class RecipesTest(ImageTestCase):
    """A user's project beside a daemon of its own, so that `reap` meets nobody else's things."""

    small: SmallDaemon
    theirs: Engine

    @classmethod
    def setUpClass(cls) -> None:
        """Start the daemon."""
        super().setUpClass()
        cls.small = cls.enterClassContext(small_daemon(disk="300m", registry=cls.registry))
        cls.theirs = connect(cls.settings, endpoint=Endpoint(url=cls.small.daemon.url))
        cls.addClassCleanup(cls.theirs.close)

    def setUp(self) -> None:
        """Have a project with a test and two locked images."""
        super().setUp()
        (self.folder / "test_users.py").write_text(USERS_TEST, encoding="utf-8")
        self.images = [self.push(tiny_image(), name=name) for name in ("first", "second")]
        self.write_lock(*self.images)

    def sh(self, script: str, *, by: str = "bash", env: Mapping[str, str] | None = None) -> str:
        """Run a script as CI does and return what it printed."""
        python = Path(sys.executable).parent
        run = subprocess.run(
            [by, "-e", "-c", script],
            env={
                **os.environ,
                "PATH": f"{python}:{os.environ['PATH']}",
                **self.small.env,
                **(env or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(0, run.returncode, f"{script}\n{run.stdout}{run.stderr}")
        return run.stdout

    def forget_images(self) -> None:
        """A new machine has none of the images."""
        for image in self.images:
            for name in (image.reference.tagged, image.reference.pinned):
                self.theirs.images.remove(name)

    def assert_images(self) -> None:
        """Every image is there."""
        for image in self.images:
            self.assertIsNotNone(self.theirs.images.find(image.reference.tagged))

    def job(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The steps of a job that run a shell."""
        recipe = yaml.safe_load((RECIPES / "github-actions.yml").read_text(encoding="utf-8"))
        steps: Sequence[Mapping[str, Any]] = recipe["jobs"][name]["steps"]
        return [step for step in steps if "run" in step and step["name"] != "Install"]

    def run_job(self, *, hit: bool) -> str:
        """Run the tests job with or without a hit in the cache, and return the cache's key."""
        output = self.folder / "output"
        output.unlink(missing_ok=True)
        conditions = {
            None: True,
            "always()": True,
            "steps.cache.outputs.cache-hit == 'true'": hit,
            "steps.cache.outputs.cache-hit != 'true'": not hit,
        }
        self.said = ""
        for step in self.job("tests"):
            if conditions[step.get("if")]:
                env = {"GITHUB_OUTPUT": str(output), **step.get("env", {})}
                self.said += self.sh(step["run"], env=env)
        self.assert_images()
        return output.read_text(encoding="utf-8")

    def test_github(self) -> None:
        """A miss pulls and saves; a hit loads; a spoilt archive costs a pull, not the job."""
        key = self.run_job(hit=False)
        self.assertRegex(key, r"^key=[0-9a-f]{64}\n$")
        self.assertIn("saved 2 images", self.said)
        self.forget_images()
        self.assertEqual(key, self.run_job(hit=True))
        self.assertIn("loaded and verified", self.said)
        self.assertIn("2 images, all present", self.said)
        self.forget_images()
        archive = self.folder / "images.tar.zst"
        archive.write_bytes(archive.read_bytes()[:-100])
        self.run_job(hit=True)
        self.assertIn("::warning::image cache not used", self.said)

        [step] = self.job("images-moved")
        self.assertIn("same", self.sh(step["run"]))

    def test_gitlab(self) -> None:
        """The job's scripts run, first without and then with an archive in the cache."""
        recipe = yaml.safe_load((RECIPES / "gitlab-ci.yml").read_text(encoding="utf-8"))
        job = recipe[".tests"]
        install, *before = job["before_script"]
        self.assertTrue(install.startswith("python -m pip install"))
        for _ in range(2):
            for line in (*before, *job["script"], *job["after_script"]):
                self.sh(line, env=job["variables"] if line in job["script"] else None)
            self.assert_images()
            for path in (*job["cache"]["paths"], job["artifacts"]["reports"]["junit"]):
                self.assertTrue((self.folder / path).exists())
            self.forget_images()

    def test_self_hosted(self) -> None:
        """Every line runs, in a clone."""
        for argv in (
            ["init", "--quiet", "--bare", "origin"],
            ["clone", "--quiet", "origin", "checkout"],
        ):
            subprocess.run(["git", *argv], check=True, capture_output=True)
        shutil.copy("images.lock", "checkout")
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
        for argv in (["add", "."], [*identity, "commit", "-qm", "lock"], ["push", "-q"]):
            subprocess.run(["git", "-C", "checkout", *argv], check=True, capture_output=True)
        lines = (RECIPES / "self-hosted-runner.cron").read_text(encoding="utf-8").splitlines()
        jobs = [line.split(None, 6) for line in lines if line[:1].isdigit() or line[:1] == "*"]
        self.assertEqual(3, len(jobs))
        for *_, user, command in jobs:
            self.assertEqual("runner", user)
            self.sh(command, by="sh", env={"CHECKOUT": str(self.folder / "checkout")})
        self.assert_images()

    def carry(self, what: str) -> str:
        """Pack or unpack."""
        return self.sh(f"{RECIPES / 'air-gap.sh'} {what} stick", env={"PYTHON": sys.executable})

    def test_air_gap(self) -> None:
        """What was packed is unpacked on a machine without a registry, unless it is damaged."""
        self.carry("pack")
        self.forget_images()
        self.assertIn("2 images in", self.carry("unpack"))
        self.assert_images()

        archive = self.folder / "stick" / "images.tar.gz"
        archive.write_bytes(archive.read_bytes()[:-1] + b"?")
        with self.assertRaisesRegex(AssertionError, "images.tar.gz: FAILED"):
            self.carry("unpack")


class MirrorRecipeTest(ImageTestCase):
    """registry-mirror.yml."""

    def serve(self) -> str:
        """Start the mirror of the recipe, of our registry instead of Docker Hub."""
        recipe = yaml.safe_load((RECIPES / "registry-mirror.yml").read_text(encoding="utf-8"))
        host = f"127.0.0.1:{free_port('127.0.0.1')}"
        recipe["http"]["addr"] = host
        recipe["storage"]["filesystem"]["rootdirectory"] = str(self.folder / "data")
        self.assertEqual("https://registry-1.docker.io", recipe["proxy"]["remoteurl"])
        recipe["proxy"]["remoteurl"] = f"http://{self.registry.host}"
        config = self.folder / "config.yml"
        config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        assert PROGRAM
        log = self.enterContext(tempfile.NamedTemporaryFile())
        process = subprocess.Popen([PROGRAM, "serve", config], stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for_port(host, process, Path(log.name))
        return host

    def test_pull(self) -> None:
        """An image of Docker Hub comes by way of the mirror, which keeps it."""
        image = self.push(tiny_image(), host="docker.io")
        self.write_lock(image)
        host = self.serve()
        ran = run_command("pull", env={"ORCHESTRATOR_REGISTRY_MIRROR": host})
        self.assertEqual(0, ran.status, ran)
        self.assertIsNotNone(self.engine.images.find(image.reference.tagged))
        kept = f"{host}/{image.reference.repository}@{image.digest}"
        for name in (image.reference.tagged, kept):
            self.engine.images.remove(name)
