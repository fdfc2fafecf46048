"""A Docker daemon of our own to kill, freeze and restart, in a network namespace of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

from orchestrator.sessions.bare.http_reaper import Dialer, exchange
from tests.faults.daemon import Daemon
from tests.faults.process import await_that, processes_with

_DEADLINE: Final = 180.0
_IN_NAMESPACE: Final = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


class PrivateDaemon:
    """A dockerd with folders, socket and network of its own, and perhaps more arguments."""

    def __init__(self, *, options: Sequence[str] = ()) -> None:
        if os.geteuid() != 0 or not shutil.which("dockerd"):
            raise unittest.SkipTest("a private daemon takes root and dockerd")
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="orchestrator-dockerd-"))
        self.url = f"unix://{self._folder}/docker.sock"
        self.log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        (self._folder / "docker.pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_IN_NAMESPACE, "dockerd", *self._arguments()], stdout=log, stderr=log
            )
        process = self._process
        await_that(lambda: self._answers() or process.poll() is not None, "the daemon is silent")
        assert process.poll() is None, self.log.read_text(errors="replace")[-2000:]
        return self

    def _kill_containers(self) -> None:
        """They ignore SIGTERM, and the daemon would wait 10 s for them."""
        daemon = Daemon(self.url)
        for row in daemon.client.containers():
            daemon.client.kill(row["Id"])
        daemon.client.close()

    def _answers(self) -> bool:
        path = self.url.removeprefix("unix://")
        [answer] = exchange(
            Dialer(["unix", path]), [("GET", "/_ping", b"")], deadline=time.monotonic() + 5
        )
        return answer.status == HTTPStatus.OK

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal: SIGSTOP freezes it, SIGCONT thaws it."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Stop it in order; its containers stop too."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._kill_containers()
        self._process.terminate()
        self._process.wait(_DEADLINE)

    def kill(self) -> None:
        """Kill it, and the containerd it started; containers live on, as after a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_DEADLINE)
        keeper = self._folder / "exec/containerd/containerd.pid"
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(keeper.read_text()), signal.SIGKILL)
        keeper.unlink(missing_ok=True)  # it may be a zombie, which the next dockerd takes for alive

    def close(self) -> None:
        """Stop it and remove all it had."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        for pid in processes_with(f"{self._folder}/exec/containerd/containerd.sock"):
            os.kill(
                pid, signal.SIGKILL
            )  # what keeps a container of a daemon that did not come back
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (where := line.split()[1]).startswith(f"{self._folder}/"):
                subprocess.run(["umount", "-l", where], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _arguments(self) -> list[str]:
        return [
            f"--data-root={self._folder}/data",
            f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/docker.pid",
            f"--host={self.url}",
            *self._options,
        ]
