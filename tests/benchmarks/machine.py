"""Processes, ports and containers of the benchmarks; all of it is gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache"
THEIR_PYTHON: Final = CACHE / "testcontainers" / "bin" / "python"
LABEL: Final = "dev.orchestrator.benchmark"
_PATIENCE: Final = 600.0


def has_testcontainers() -> bool:
    """Whether ci/bench could install the competitor."""
    return THEIR_PYTHON.exists()


def run_worker(name: str, *arguments: str, python: str | Path = sys.executable) -> Any:
    """Run a worker in a process of its own.

    Raises:
        RuntimeError: It failed; the message has what it said.
    """
    done = subprocess.run(
        [str(python), "-m", f"tests.benchmarks.workers.{name}", *arguments],
        cwd=ROOT,
        env=worker_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def worker_environment() -> dict[str, str]:
    """The environment of a worker, whose containers have labels of their own.

    Of testcontainers, the reaper is off: no image of it is here.
    """
    return {
        **os.environ,
        "ORCHESTRATOR_RUN": str(uuid.uuid4()),
        "BENCHMARK_LABEL": label(),
        "TESTCONTAINERS_RYUK_DISABLED": "true",
    }


def label() -> str:
    """The label of this run's containers that orchestrator does not own."""
    return f"{LABEL}={os.getpid()}"


def free_port() -> int:
    """A port of the loopback nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def docker(*arguments: str) -> str:
    """Run the Docker command and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]} failed:\n{done.stderr}")
    return done.stdout.strip()


def remove(containers: Sequence[str]) -> None:
    """Kill and remove containers, with their volumes."""
    if containers:
        docker("rm", "--force", "--volumes", *containers)


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Remove what benchmarks that were killed left, and in the end what this one did."""
    for pid in _labelled_pids():
        if not Path(f"/proc/{pid}").exists():
            remove(docker("ps", "-aq", "--filter", f"label={LABEL}={pid}").split())
    try:
        yield
    finally:
        remove(docker("ps", "-aq", "--filter", f"label={label()}").split())


def _labelled_pids() -> set[str]:
    form = f'{{{{.Label "{LABEL}"}}}}'
    return set(docker("ps", "-a", "--filter", f"label={LABEL}", "--format", form).split())
