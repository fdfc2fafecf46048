"""Commands that are interrupted, or whose output nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image

DEADLINE = 20.0  # seconds; a stalled answer takes longer


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
