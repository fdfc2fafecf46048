"""What the parent saves of a dead worker's services: their logs. Then they are removed."""

from __future__ import annotations

import json
import textwrap
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import OrchestratorError, printable
from orchestrator.services.secret import masked
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.engine.api import Listed
    from orchestrator.engine.docker import Engine

_CONTAINER: Final = "container"
_PATIENCE: Final = 10.0  # seconds: the run waits for this


class Salvage:
    """Takes the logs of dead workers' containers, then removes all that was the workers'.

    Args:
        run: The label of the run.
        folder: Where to keep whole logs, or None.
    """

    def __init__(self, *, run: str, folder: Path | None) -> None:
        self._run = run
        self._folder = folder
        settings = Settings.from_environment()
        self._settings = replace(settings, engine_timeout=min(settings.engine_timeout, _PATIENCE))
        self._engine: Engine | None = None

    def prepare(self) -> None:
        """Connect now: after a death every moment counts, others may sweep the containers away."""
        from orchestrator.engine import connect  # plain suites need none of this

        if self._engine is not None:
            return
        with suppress(OrchestratorError):  # without a daemon there is nothing to take
            self._engine = connect(self._settings)
            self._found(self._engine)  # opens a connection, which is kept

    def take(self, *, pid: int, secrets: Sequence[str]) -> str:
        """Save and remove what one dead worker left.

        Args:
            pid: Its process id, not yet reused.
            secrets: What to mask.

        Returns:
            The last lines of each service, and what went wrong.
        """
        from orchestrator.sessions import remove_session

        self.prepare()
        if self._engine is None:
            return "The logs of its services could not be read: no Docker daemon answers."
        try:
            things = [thing for thing in self._found(self._engine) if _owner(thing) == pid]
            told = [
                self._saved(self._engine, thing, secrets)
                for thing in things
                if thing.kind == _CONTAINER and Label.SERVICE in thing.labels
            ]
            for session in sorted({thing.labels[Label.SESSION] for thing in things}):
                left = remove_session(self._engine, session)
                told += [f"left behind: {it.name}: {it.reason}" for it in left]
        except OrchestratorError as error:
            return f"The logs of its services could not be read: {error}"
        return "\n".join(told)

    def close(self) -> None:
        """Close the connection to the daemon."""
        if self._engine is not None:
            self._engine.close()

    def _found(self, engine: Engine) -> Sequence[Listed]:
        from orchestrator.sessions import snapshot

        return snapshot(engine, {Label.MARK: "1", Label.RUN: self._run}).things

    def _saved(self, engine: Engine, container: Listed, secrets: Sequence[str]) -> str:
        alias = container.labels[Label.SERVICE]
        log = masked(_log_of(engine, container), secrets)
        tail = "\n".join(printable(log.rstrip()).split("\n")[-self._settings.log_lines :])
        told = f"Last log lines of {alias}:\n{textwrap.indent(tail, '    ')}"
        if self._folder is not None:
            from orchestrator.environment.context import write_log

            owner = container.labels.get(Label.CLASS, "")
            try:
                write_log(self._folder, test_class=owner, alias=alias, text=log)
            except OSError as error:
                told += f"\n(not kept in {self._folder}: {error.strerror})"
        return told


def _owner(thing: Listed) -> int | None:
    try:
        pid = json.loads(thing.labels[Label.OWNER])["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and Label.SESSION in thing.labels else None


def _log_of(engine: Engine, container: Listed) -> str:
    try:
        return engine.logs(container.id)
    except OrchestratorError as error:  # it may be going already
        return f"(no log: {error})\n"
