"""``log_to``: each line of a container's log, given to a logger while the container lives."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from orchestrator.errors import EngineError, printable
from orchestrator.services.secret import masked

if TYPE_CHECKING:
    from orchestrator.services.service import Service

_ENDED: Final = 0.2  # seconds between two looks at a container that may be started again
_log: Final = logging.getLogger("orchestrator.environment")


class Follower:
    """A thread that ends when the container is gone; it goes on when the container is restarted."""

    def __init__(self, handle: Service, logger: logging.Logger | str) -> None:
        self._handle = handle
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._thread = threading.Thread(
            target=self._run, name=f"orchestrator-log-{handle.alias}", daemon=True
        )
        self._thread.start()

    def join(self, *, timeout: float) -> None:
        """Wait until the last line has been given; the container must be gone."""
        self._thread.join(timeout)

    def _run(self) -> None:
        running = self._handle.running
        last = ""
        try:
            while (state := self._handle.state()) is not None:
                if state.ended and last:
                    time.sleep(_ENDED)
                    continue
                for at, line in running.engine.follow_logs(running.container, after=last):
                    last = at
                    said = printable(masked(line, self._handle.secrets()))
                    self._logger.info("%s: %s", running.alias, said)
                last = last or "0"
        except EngineError as error:
            _log.debug("the log of %s ends here: %s", running.alias, error)
