"""What removing the same objects costs without us: one ``docker rm -f``, one ``network rm``."""

from __future__ import annotations

import statistics
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Final, Self

from orchestrator.engine.api import Label
from tests.faults.daemon import Daemon

if TYPE_CHECKING:
    from types import TracebackType

_ROUNDS: Final = 3


class RawRemoval:
    """Creates a network with containers and removes them by command, to the clock."""

    def __enter__(self) -> Self:
        self._daemon = Daemon()
        self._image = self._daemon.image()
        # A run, for tidying up, but no mark: no reaper of ours sees these.
        self._labels = {Label.RUN: str(uuid.uuid4())}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._daemon.remove_all(self._labels[Label.RUN])
        self._daemon.remove_image(self._image)
        self._daemon.client.close()

    def seconds(self, containers: int) -> float:
        """The median of a few rounds, as things are on the machine at this moment."""
        return statistics.median(self._round(containers) for _ in range(_ROUNDS))

    def _round(self, containers: int) -> float:
        client = self._daemon.client
        network = f"orchestrator-raw-{uuid.uuid4().hex[:8]}"
        client.create_network(network, labels=self._labels)
        names = [f"{network}-{number}" for number in range(containers)]
        for name in names:
            config = client.create_host_config(network_mode=network)
            client.create_container(self._image, name=name, labels=self._labels, host_config=config)
            client.start(name)
        began = time.monotonic()
        _docker("rm", "-f", *names)
        _docker("network", "rm", network)
        return time.monotonic() - began


def _docker(*argv: str) -> None:
    subprocess.run(["docker", *argv], check=True, stdout=subprocess.DEVNULL)
