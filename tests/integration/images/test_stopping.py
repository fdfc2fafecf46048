"""Pulls, builds and commands that are interrupted, or that nobody waits for any more."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from unittest import mock

from orchestrator import Container
from tests.faults.process import await_that
from tests.support.classes import LeakCheckedTestCase
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.processes import run_command
from tests.support.tiny_images import tiny_image

DEADLINE = 60.0  # seconds; far less than a slow layer or a stalled answer takes


PATIENT = {"ORCHESTRATOR_ENGINE_TIMEOUT": "600"}


class StoppedTest(ImageTestCase, LeakCheckedTestCase):
    """Commands in processes of their own, and a class; pulls would take minutes."""

    def begin(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command, which waits for slow answers."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | PATIENT,
        )
        self.addCleanup(process.wait, DEADLINE)
        self.addCleanup(process.kill)
        return process

    def ended(self, process: subprocess.Popen[bytes], status: int) -> bytes:
        """What a command that has been stopped says on stderr; on stdout there is nothing."""
        out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((status, b""), (process.returncode, out), err)
        self.assertNotIn(b"Traceback", err)
        return err

    def slow(self) -> FaultProxy:
        """Lock an image that comes slowly, through a proxy."""
        proxy = self.enterContext(fault_proxy(self.registry.host))
        built = tiny_image(content=os.urandom(20_000))
        self.image = self.push(built, host=proxy.host)
        layer = next(digest for digest in built.blobs if digest != built.config)
        proxy.faults = [Fault(path=f"/blobs/{layer}", drip=True, after=30)]
        return proxy

    def test_save(self) -> None:
        """Ctrl-C and SIGTERM leave no part of an archive, and the earlier one as it was."""
        lock = self.write_lock(self.push(tiny_image(content=os.urandom(8 << 20))))
        self.assertEqual(0, run_command("pull").status)
        earlier = self.folder / "images.tar.gz"
        earlier.write_text("earlier")
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number):
                process = self.begin("save", "images.tar.gz")
                begun = lambda: list(self.folder.glob(".images.tar.gz.*"))  # noqa: E731
                await_that(begun, "no archive was begun", pause=0.001)
                process.send_signal(number)
                self.ended(process, status)
                self.assertEqual({lock, earlier}, set(self.folder.iterdir()))
                self.assertEqual("earlier", earlier.read_text())

    def test_lock_stalled(self) -> None:
        """Ctrl-C does not wait for a registry that stalls."""
        image = self.push(tiny_image(), tiny_image(platform="linux/arm64"))
        with fault_proxy(self.registry.host) as proxy:
            proxy.faults = [Fault(path="/manifests/sha256", stall=True)]
            process = self.begin("lock", f"{proxy.host}/{image.reference.repository}:1")
            self.assertTrue(proxy.stalling.wait(DEADLINE))
            process.send_signal(signal.SIGINT)
            self.ended(process, 130)
            self.assertEqual([], list(self.folder.iterdir()))

    def test_sibling_fails(self) -> None:
        """A class whose other service fails does not wait for the pull."""
        proxy = self.slow()
        self.write_lock(self.image, self.push(name="sibling"))

        class Failing(Container):
            def server_env(self) -> Mapping[str, str]:
                proxy.dripping.wait(DEADLINE)
                return super().server_env()

        slow, failing = Container(image=str(self.image)), Failing(image="sibling")
        with mock.patch.dict(os.environ, PATIENT), contextlib.redirect_stderr(io.StringIO()):
            text = self.assert_cannot_start("/file0", slow=slow, failing=failing)  # no program
        self.assertNotIn("Stopped waiting", text)
        self.assertTrue(proxy.left.wait(DEADLINE), "the daemon pulls on")

    def test_pull(self) -> None:
        """Ctrl-C ends it with status 130, one line and nothing half done."""
        proxy = self.slow()
        self.write_lock(self.image)
        process = self.begin("pull")
        self.assertTrue(proxy.dripping.wait(DEADLINE))
        process.send_signal(signal.SIGINT)
        err = self.ended(process, 130)
        self.assertTrue(err.endswith(b"\norchestrator pull: interrupted\n"), err)
        self.assertNotIn(b"FAILED", err)
        self.assertTrue(proxy.left.wait(DEADLINE), "the daemon pulls on")
        self.assertIsNone(self.engine.images.find(self.image.reference.tagged))
        proxy.faults = []
        self.assertEqual(0, run_command("pull").status)
