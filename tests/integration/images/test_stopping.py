"""Pulls, builds and commands that are interrupted, or that nobody waits for any more."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING
from unittest import mock

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import EngineError
from orchestrator.images import ensure_image
from orchestrator.images.pull import Display
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.engine.api import ImageInfo


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
        self.assertEqual(0, self.command("pull").status)
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
        """Ctrl-C does not wait for a registry that stalls, nor for one of its platforms."""
        image = self.push(tiny_image(), tiny_image(platform="linux/arm64"))
        for path in ("", "/manifests/sha256"):
            with self.subTest(path), fault_proxy(self.registry.host) as proxy:
                proxy.faults = [Fault(path=path, stall=True)]
                process = self.begin("lock", f"{proxy.host}/{image.reference.repository}:1")
                self.assertTrue(proxy.stalling.wait(DEADLINE))
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=DEADLINE)
                self.assertEqual(130, process.returncode, err)
                self.assertEqual([], list(self.folder.iterdir()))

    def test_no_reader(self) -> None:
        """When nobody reads what it prints, a command ends quietly, as others do of SIGPIPE."""
        self.write_lock(self.push())
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            process = self.begin("lock", "--hash", stdout=pipe)
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((141, b""), (process.returncode, err))


DEADLINE = 20.0  # seconds; far less than a slow layer or a stalled answer takes
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
        self.slow = Fault(path=f"/blobs/{layer}", drip=True, after=30)
        self.write_lock(self.image)
        self.stopping = threading.Event()
        self.display = Display(quiet=True)
        pool = concurrent.futures.ThreadPoolExecutor(1)
        self.addCleanup(pool.shutdown)
        self.pool = pool

    def ensure(self) -> concurrent.futures.Future[ImageInfo]:
        """Begin to pull, as a service does that starts."""
        return self.pool.submit(
            ensure_image,
            self.engine,
            self.image,
            settings=Settings(),
            display=self.display,
            stopping=self.stopping,
        )

    def assert_comes(self) -> None:
        """A pull succeeds now."""
        self.assertEqual(0, self.command("pull").status)

    def test_layer(self) -> None:
        """In the middle of a layer: the daemon gives up too, and the next pull succeeds."""
        self.proxy.faults = [self.slow]
        pulling = self.ensure()
        self.assertTrue(self.proxy.dripping.wait(DEADLINE))
        self.stopping.set()
        with self.assertRaisesRegex(EngineError, "Stopped waiting for .* to pull"):
            pulling.result(DEADLINE)
        self.assertTrue(self.proxy.left.wait(DEADLINE), "the daemon pulls on")
        self.assertIsNone(self.engine.images.find(self.image.reference.pinned))
        self.assert_comes()

    def test_sibling_fails(self) -> None:
        """A class whose other service fails does not wait for the pull."""
        self.proxy.faults = [self.slow]
        sibling = self.push(name="sibling")
        self.write_lock(self.image, sibling)
        dripping = self.proxy.dripping

        class Failing(Container):
            def server_env(self) -> Mapping[str, str]:
                dripping.wait(DEADLINE)
                return super().server_env()

        class Stopped(ServicesMixin, unittest.TestCase):
            slow = Container(image=str(self.image))
            failing = Failing(image="sibling")  # an image without a program cannot run

            def test_it(self) -> None: ...

        with mock.patch.dict(os.environ, PATIENT), contextlib.redirect_stderr(io.StringIO()):
            text = self.assert_error(Stopped, "/file0")
        self.assertNotIn("Stopped waiting", text)
        self.assertTrue(self.proxy.left.wait(DEADLINE), "the daemon pulls on")

    def test_command(self) -> None:
        """Ctrl-C ends `pull` with status 130, one line and nothing half done."""
        self.proxy.faults = [self.slow]
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
        self.assert_comes()


class StoppedBuildTest(LeakCheckedTestCase):
    """A build under way."""

    def test_sibling_fails(self) -> None:
        """A class whose other service fails does not wait for the build; its step is ended."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        word = f"word-{uuid.uuid4().hex}"
        Path(folder, "Dockerfile").write_text(f"FROM redis\nRUN : {word}; sleep 600\n")

        class Failing(Redis):
            def server_env(self) -> Mapping[str, str]:
                wait_until(lambda: word in commands())
                return super().server_env()

        class Stopped(ServicesMixin, unittest.TestCase):
            slow = Container(build=folder)
            failing = Failing(command=["false"])

            def test_it(self) -> None: ...

        self.assertNotIn("Stopped waiting", self.assert_error(Stopped, "ServiceExitedError"))
        wait_until(lambda: word not in commands())


def commands() -> str:
    """What containers run now."""
    argv = ["docker", "ps", "--no-trunc", "--format", "{{.Command}}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("not within the deadline")
        time.sleep(0.05)
