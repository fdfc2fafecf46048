"""Pulls, builds and commands that are interrupted, or that nobody waits for any more."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from unittest import mock

from orchestrator import Container
from tests.support.classes import LeakCheckedTestCase
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.processes import run_command
from tests.support.tiny_images import tiny_image


class InterruptionTest(ImageTestCase):
    """Commands in processes of their own."""

    def begin(
        self, *argv: str, stdout: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *argv], stdout=stdout, stderr=subprocess.PIPE
        )
        self.addCleanup(process.wait, DEADLINE)
        self.addCleanup(process.kill)
        return process

    def test_save(self) -> None:
        """Ctrl-C and SIGTERM leave no part of an archive, and the earlier one as it was."""
        image = self.push(tiny_image(content=os.urandom(8 << 20)))
        lock = self.write_lock(image)
        self.assertEqual(0, run_command("pull").status)
        earlier = Path("images.tar.gz")
        earlier.write_text("earlier")
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number):
                process = self.begin("save", "images.tar.gz")
                deadline = time.monotonic() + DEADLINE
                while not list(self.folder.glob(".images.tar.gz.*")):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.001)
                process.send_signal(number)
                out, err = process.communicate(timeout=DEADLINE)
                self.assertEqual((status, b""), (process.returncode, out), err)
                self.assertNotIn(b"Traceback", err)
                self.assertEqual({lock, self.folder / earlier}, set(self.folder.iterdir()))
                self.assertEqual("earlier", earlier.read_text())

    def test_lock_stalled(self) -> None:
        """Ctrl-C does not wait for a registry that stalls."""
        image = self.push(tiny_image(), tiny_image(platform="linux/arm64"))
        with fault_proxy(self.registry.host) as proxy:
            proxy.faults = [Fault(path="/manifests/sha256", stall=True)]
            process = self.begin("lock", f"{proxy.host}/{image.reference.repository}:1")
            self.assertTrue(proxy.stalling.wait(DEADLINE))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=DEADLINE)
            self.assertEqual(130, process.returncode, err)
            self.assertEqual([], list(self.folder.iterdir()))


DEADLINE = 60.0  # seconds; far less than a slow layer or a stalled answer takes
PATIENT = {"ORCHESTRATOR_ENGINE_TIMEOUT": "600"}


class StoppedPullTest(ImageTestCase, LeakCheckedTestCase):
    """A pull from a slow registry, which would take minutes."""

    def setUp(self) -> None:
        """Lock an image that comes through a proxy."""
        super().setUp()
        self.proxy = self.enterContext(fault_proxy(self.registry.host))
        built = tiny_image(content=os.urandom(20_000))
        self.image = self.push(built, host=self.proxy.host)
        layer = next(digest for digest in built.blobs if digest != built.config)
        self.proxy.faults = [Fault(path=f"/blobs/{layer}", drip=True, after=30)]
        self.write_lock(self.image)

    def test_sibling_fails(self) -> None:
        """A class whose other service fails does not wait for the pull."""
        sibling = self.push(name="sibling")
        self.write_lock(self.image, sibling)
        dripping = self.proxy.dripping

        class Failing(Container):
            def server_env(self) -> Mapping[str, str]:
                dripping.wait(DEADLINE)
                return super().server_env()

        slow, failing = Container(image=str(self.image)), Failing(image="sibling")
        with mock.patch.dict(os.environ, PATIENT), contextlib.redirect_stderr(io.StringIO()):
            text = self.assert_cannot_start("/file0", slow=slow, failing=failing)  # no program
        self.assertNotIn("Stopped waiting", text)
        self.assertTrue(self.proxy.left.wait(DEADLINE), "the daemon pulls on")

    def test_command(self) -> None:
        """Ctrl-C ends `pull` with status 130, one line and nothing half done."""
        argv = [sys.executable, "-m", "orchestrator", "pull"]
        environment = {**os.environ, **PATIENT}
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            self.addCleanup(process.kill)
            self.assertTrue(self.proxy.dripping.wait(DEADLINE))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(130, process.returncode, err)
        self.assertEqual(b"", out)
        self.assertTrue(err.endswith(b"\norchestrator pull: interrupted\n"), err)
        self.assertNotIn(b"FAILED", err)
        self.assertTrue(self.proxy.left.wait(DEADLINE), "the daemon pulls on")
        self.assertIsNone(self.engine.images.find(self.image.reference.tagged))
        self.proxy.faults = []
        self.assertEqual(0, run_command("pull").status)
