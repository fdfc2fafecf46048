"""What is saved of a dead worker's services, and their removal.

Imported when there is need: what it takes to speak with the daemon costs a plain suite 0.1 s.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.environment.context import write_log
from orchestrator.errors import OrchestratorError, indented
from orchestrator.services.options import masked
from orchestrator.sessions import remove_session, snapshot
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions import Thing

_LONGEST_ANSWER: Final = 10.0  # seconds of the daemon: the run waits for this


class CrashLogs:
    """Takes the logs of dead workers' services, then removes all that the workers had started."""

    def __init__(self, *, run: str, folder: str | None) -> None:
        self._run = run
        self._folder = None if folder is None else Path(folder)
        self._engine: Engine | None = None
        self._lines = 0  # that are shown of each log

    def prepare(self) -> None:
        """Connect now: after a death every moment counts, others may sweep the containers away."""
        if self._engine is None:
            with suppress(OrchestratorError):  # no daemon, or a wrong setting: each class says so
                settings = Settings.from_environment()
                self._lines = settings.log_lines
                timeout = min(settings.engine_timeout, _LONGEST_ANSWER)
                self._engine = connect(replace(settings, engine_timeout=timeout))
                self._found(self._engine)  # opens a connection, which is kept

    def take(self, *, pid: int, secrets: Sequence[str]) -> str:
        """Save and remove what one dead worker, not yet reaped, left; returns what to say."""
        self.prepare()
        if self._engine is None:
            return "The logs of its services could not be read: no Docker daemon answers."
        try:
            things = [thing for thing in self._found(self._engine) if _owner(thing) == pid]
            said = [
                self._saved(self._engine, thing, secrets)
                for thing in things
                if thing.kind == "container" and Label.SERVICE in thing.labels
            ]
            for session in sorted({thing.labels[Label.SESSION] for thing in things}):
                left = remove_session(self._engine, session)
                said += [f"left behind: {it.name}: {it.reason}" for it in left]
        except OrchestratorError as error:
            return f"The logs of its services could not be read: {error}"
        return "\n".join(filter(None, said))

    def close(self) -> None:
        """Close the connection to the daemon."""
        if self._engine is not None:
            self._engine.close()

    def _found(self, engine: Engine) -> Sequence[Thing]:
        return snapshot(engine, {Label.MARK: "1", Label.RUN: self._run})[0]

    def _saved(self, engine: Engine, container: Thing, secrets: Sequence[str]) -> str:
        alias = container.labels[Label.SERVICE]
        try:
            log = engine.logs(container.id)
        except OrchestratorError as error:  # it may be going already
            log = f"(no log: {error})\n"
        log = masked(log, secrets)
        last = "\n".join(log.rstrip().split("\n")[-self._lines :])
        said = f"Last log lines of {alias}:\n{indented(last)}" if self._lines else ""
        if self._folder is not None:
            owner = container.labels.get(Label.CLASS, "")
            try:
                write_log(self._folder, test_class=owner, alias=alias, text=log)
            except OSError as error:
                said += f"\n(not kept in {self._folder}: {error.strerror})"
        return said


def _owner(thing: Thing) -> int | None:
    try:
        pid = json.loads(thing.labels[Label.OWNER])["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and Label.SESSION in thing.labels else None
