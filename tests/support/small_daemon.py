"""A private daemon with a small disk, and a registry in its network namespace."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.private_daemon import PrivateDaemon
from tests.faults.process import await_that
from tests.support.registries import PROGRAM, Registry

# A second daemon would delete docker0 of the first with `--bridge none`: hence the namespace.
_OPTIONS = ("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")


@dataclass(frozen=True)
class SmallDaemon:
    """A running daemon, and its data folder, a tmpfs."""

    daemon: PrivateDaemon
    data: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment in which commands find it."""
        return {"DOCKER_HOST": self.daemon.url}

    def resize(self, size: str) -> None:
        """Give it another amount of disk."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.data], check=True)


@contextlib.contextmanager
def small_daemon(*, disk: str, registry: Registry | None = None) -> Iterator[SmallDaemon]:
    """A daemon with this much disk (``"64m"``) and no way out: its registry is served inside."""
    daemon = PrivateDaemon(options=_OPTIONS)
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.close)
        data = daemon._folder / "data"
        data.mkdir()
        options = f"size={disk},mode=711"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", data], check=True)
        daemon.start()
        if registry:
            assert daemon._process
            stack.enter_context(_served(registry, daemon._process.pid))
        yield SmallDaemon(daemon, data)


@contextlib.contextmanager
def _served(registry: Registry, pid: int) -> Iterator[None]:
    assert PROGRAM
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    argv = [*inside, PROGRAM, "serve", str(registry.config)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, _, port = registry.host.rpartition(":")
    knock = [*inside, "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    try:
        answers = lambda: not subprocess.run(knock, check=False, capture_output=True).returncode  # noqa: E731
        await_that(answers, "the registry did not start in the daemon's namespace", pause=0.05)
        yield
    finally:
        process.kill()
        process.wait()
