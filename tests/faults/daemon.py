"""The daemon as the tests see it: through docker-py, apart from the code under test."""

import contextlib
import json
import os
import platform
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import docker
import docker.errors

from orchestrator.engine import Endpoint, find_endpoint
from orchestrator.engine.api import Label
from orchestrator.sessions.identity import hold
from orchestrator.sessions.reap import sweep_lock
from tests.support.tiny_images import tar_of

DEADLINE: Final = 180.0
_POLL: Final = 0.005 if os.environ.get("FAULTS_THOROUGH") else 0.1  # ci/faults reports times


class Daemon:
    """A Docker daemon, the shared one or a private one."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or find_endpoint().url
        self.client = docker.APIClient(base_url=self.url, version="auto", timeout=60)

    def image(self, *, changes: Sequence[str] = ()) -> str:
        """Make a throw-away image; its reference."""
        reference = f"orchestrator-faults:{uuid.uuid4().hex[:12]}"
        build_image(self.client, reference, changes=changes)
        return reference

    def remove_image(self, reference: str) -> None:
        """Remove an image of ours."""
        with contextlib.suppress(docker.errors.NotFound):
            self.client.remove_image(reference, force=True)

    def left(self, value: str, label: str = Label.RUN) -> list[str]:
        """Everything that carries a run's label, or a session's, as ``kind name``."""
        return [f"{kind} {name}" for kind, name, _id in self._of(f"{label}={value}")]

    def await_gone(self, value: str, label: str = Label.RUN, *, since: float = 0.0) -> float:
        """Seconds from a moment until nothing of it was left; AssertionError at the deadline."""
        since = since or time.monotonic()
        while next(self._of(f"{label}={value}"), None):
            if time.monotonic() - since > DEADLINE:
                raise AssertionError(f"left behind after {DEADLINE:g} s: {self.left(value, label)}")
            time.sleep(_POLL)
        return time.monotonic() - since

    def remove_all(self, run: str) -> None:
        """Remove whatever a failed test left."""
        removals: dict[str, Callable[[str], object]] = {
            "container": lambda id_: self.client.remove_container(id_, force=True, v=True),
            "network": self.client.remove_network,
            "volume": lambda id_: self.client.remove_volume(id_, force=True),
            "image": lambda id_: self.client.remove_image(id_, force=True),
        }
        for kind, _name, id_ in self._of(f"{Label.RUN}={run}"):
            with contextlib.suppress(docker.errors.APIError):
                removals[kind](id_)

    def _of(self, label: str) -> Iterator[tuple[str, str, str]]:
        """Everything with a label; whoever wants to know of one thing asks no further."""
        filters = {"label": label}
        for row in self.client.containers(all=True, filters=filters):
            yield "container", (row["Names"] or [row["Id"]])[0].lstrip("/"), row["Id"]
        for row in self.client.networks(filters=filters):
            yield "network", row["Name"], row["Id"]
        for row in self.client.volumes(filters=filters)["Volumes"] or []:
            yield "volume", row["Name"], row["Name"]
        for row in self.client.images(filters=filters):
            yield "image", row["Id"], row["Id"]


@contextlib.contextmanager
def no_sweeps(url: str) -> Iterator[None]:
    """Hold the lock that every sweep of this daemon takes, off what a test has planted."""
    deadline = time.monotonic() + DEADLINE
    while True:
        if lock := hold(sweep_lock(Endpoint(url=url))):
            with lock:
                yield
            return
        if time.monotonic() > deadline:
            raise AssertionError("another process sweeps all the time")
        time.sleep(0.01)


_BASE: Final = 0x400000
_ELF_HEADER: Final = 64
_PROGRAM_HEADER: Final = 56
# Machine number of the ELF header, and "call pause() (x86-64) or ppoll() (arm64) for ever".
_PROGRAMS: Final[Mapping[str, tuple[int, bytes]]] = {
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    "aarch64": (
        183,
        bytes.fromhex("000080d2 010080d2 020080d2 030080d2 040080d2 280980d2 010000d4 f9ffff17"),
    ),
}


def build_image(client: docker.APIClient, reference: str, *, changes: Sequence[str] = ()) -> None:
    """Import the image under a reference such as ``name:tag``; changes are Dockerfile lines."""
    repository, _, tag = reference.rpartition(":")
    said: str = client.import_image_from_data(
        tar_of([("wait", _elf())], mode=0o755),
        repository=repository,
        tag=tag,
        changes=['CMD ["/wait"]', *changes],
    )
    client.tag(json.loads(said.splitlines()[-1])["status"], repository, tag)  # Podman 4 does not


def _elf() -> bytes:
    machine, code = _PROGRAMS[platform.machine().replace("arm64", "aarch64")]
    size = _ELF_HEADER + _PROGRAM_HEADER + len(code)
    entry = _BASE + size - len(code)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF", 2, 1, 1, 0, 0, 2, machine, 1, entry, _ELF_HEADER, 0, 0,
        _ELF_HEADER, _PROGRAM_HEADER, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code
