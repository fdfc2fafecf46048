"""Processes and containers of the benchmarks; all of it is gone afterwards."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
THEIR_PYTHON: Final = ROOT / ".cache" / "testcontainers" / "bin" / "python"
LABEL: Final = "dev.orchestrator.benchmark"
_DEADLINE: Final = 600.0


def run(
    *argv: str | Path,
    cwd: str | Path = ROOT,
    may_end_with: Sequence[int] = (0,),
    more: Mapping[str, str] | None = None,
) -> str:
    """What a program prints whose containers have labels of their own; RuntimeError if it fails."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ORCHESTRATOR_RUN": str(uuid.uuid4()),
        "BENCHMARK_LABEL": label(),
        "TESTCONTAINERS_RYUK_DISABLED": "true",  # no image of it is here
        **(more or {}),
    }
    done = subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=_DEADLINE
    )
    if done.returncode not in may_end_with:
        raise RuntimeError(f"{' '.join(map(str, argv))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def run_worker(name: str, *arguments: str, python: str | Path = sys.executable) -> Any:
    """The figures of a worker, which are the last line that it prints.

    Added to them are the seconds of the whole process, and those that all processors of the
    machine worked meanwhile: containers and the daemon are part of what a class costs.
    """
    began, busy = time.monotonic(), _busy()
    told = run(python, "-m", f"tests.benchmarks.{name}", *arguments)
    spent = {"process": time.monotonic() - began, "processors": _busy() - busy}
    return {**json.loads(told.splitlines()[-1]), **spent}


def _busy() -> float:
    """Seconds that the machine's processors have worked: all but idle (3) and waiting (4)."""
    times = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = sum(int(ticks) for column, ticks in enumerate(times) if column not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK")


def image(entry: str) -> str:
    """What the engine is asked for: the reference of an entry of images.lock, by digest."""
    from orchestrator.images import find_lock, resolve_image  # testcontainers' Python has it not
    from orchestrator.settings import Settings

    settings = Settings.from_environment()
    locked = resolve_image(None, default=entry, lock=find_lock(settings), settings=settings)
    return locked.reference.pinned


def label() -> str:
    """The label of this run's containers that orchestrator does not own."""
    return f"{LABEL}={os.getpid()}"


def free_port() -> int:
    """A port of the loopback nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def remove(containers: Sequence[str]) -> None:
    """Kill and remove containers, with their volumes."""
    if containers:
        run("docker", "rm", "--force", "--volumes", *containers)


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Remove in the end what orchestrator does not."""
    try:
        yield
    finally:
        remove(run("docker", "ps", "-aq", "--filter", f"label={label()}").split())
