"""The daemon as the tests see it: through docker-py, apart from the code under test."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import docker
import docker.errors

from orchestrator.engine import find_endpoint
from orchestrator.engine.api import Label
from tests.faults.image import build_image

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

    def left(self, run: str) -> list[str]:
        """Everything that carries a run's label, as ``kind name``."""
        return [f"{kind} {name}" for kind, name, _id in self._of(f"{Label.RUN}={run}")]

    def left_of_session(self, session: str) -> list[str]:
        """Everything that carries a session's label, as ``kind name``."""
        return [f"{kind} {name}" for kind, name, _id in self._of(f"{Label.SESSION}={session}")]

    def wait_until_nothing_left(self, run: str, *, since: float) -> float:
        """Seconds from a moment until nothing was left of a run; AssertionError at the deadline."""
        return self._wait(f"{Label.RUN}={run}", since=since)

    def wait_until_session_gone(self, session: str) -> None:
        """Wait until nothing is left of one session; AssertionError at the deadline."""
        self._wait(f"{Label.SESSION}={session}", since=time.monotonic())

    def _wait(self, label: str, *, since: float) -> float:
        while next(self._of(label), None):
            if time.monotonic() - since > DEADLINE:
                left = [f"{kind} {name}" for kind, name, _id in self._of(label)]
                raise AssertionError(f"left behind after {DEADLINE:g} s: {', '.join(left)}")
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
