"""What the runner knows about the services of a test class, for the worker and for the parent."""

from __future__ import annotations

import json
import textwrap
from contextlib import closing
from typing import TYPE_CHECKING, Final

from orchestrator.engine import labels
from orchestrator.errors import OrchestratorError
from orchestrator.mixin import ServicesMixin, declared_services
from orchestrator.runner.protocol import Declared
from orchestrator.services.options import memory_in_bytes
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator.engine.port import Engine, Listed
    from orchestrator.services.service import Service

_CONTAINER: Final = "container"


# In the worker


def of(cls: type) -> tuple[Declared, ...]:
    """The services a class declares; reading a declaration starts nothing."""
    if not issubclass(cls, ServicesMixin):
        return ()
    return tuple(
        Declared(
            alias=alias,
            kind=type(service).__name__,
            scope=service.scope,
            memory=memory_in_bytes(service),
        )
        for alias, service in declared_services(cls).items()
    )


def facts(cls: type) -> dict[str, str]:
    """What a report tells about the running services of a class, as ``alias.fact``."""
    return {
        f"{alias}.{name}": str(value)
        for alias, service in _running(cls)
        for name, value in (("image", service.image), ("container", service.container_id[:12]))
    }


def secrets(cls: type) -> tuple[str, ...]:
    """What must not be shown of the running services' logs."""
    return tuple(secret for _, service in _running(cls) for secret in service.secrets())


def _running(cls: type) -> Iterator[tuple[str, Service]]:
    if not issubclass(cls, ServicesMixin):
        return
    for alias, declared in declared_services(cls).items():
        service = getattr(cls, alias)
        if service is not declared:
            yield alias, service


def supervise(pipe: int) -> None:
    """Have this worker's containers outlive it until the parent has read their logs.

    Args:
        pipe: The reading end of a pipe that the parent holds and closes then.
    """
    from orchestrator.sessions import supervised  # plain suites need none of this

    supervised(pipe)


# In the parent


def salvage(*, run: str, pid: int, secrets: Sequence[str], folder: Path | None) -> str:
    """Take the logs of a dead worker's containers, then remove all that was the worker's.

    Args:
        run: The label of the run.
        pid: The dead worker's process id, not yet reused.
        secrets: What to mask.
        folder: Where to keep the whole logs, or None.

    Returns:
        The last lines of each service, and what went wrong.
    """
    from orchestrator.engine import connect  # plain suites need none of this
    from orchestrator.sessions import remove_session

    settings = Settings.from_environment()
    try:
        with closing(connect(settings)) as engine:
            labelled = {labels.MARK: "1", labels.RUN: run}
            things = [it for it in engine.labelled(labelled) if _owner(it) == pid]
            told = []
            for thing in things:
                if thing.kind == _CONTAINER and labels.SERVICE in thing.labels:
                    log = _masked(_log_of(engine, thing), secrets)
                    told.append(_told(thing, log, lines=settings.log_lines))
                    if folder is not None:
                        _keep(thing, log, folder)
            for session in sorted({it.labels[labels.SESSION] for it in things}):
                report = remove_session(engine, session)
                told += [f"left behind: {it.thing.name}: {it.reason}" for it in report.failed]
            return "\n".join(told)
    except OrchestratorError as error:
        return f"The logs of the worker's services could not be read: {error}"


def _owner(thing: Listed) -> int | None:
    try:
        pid = json.loads(thing.labels[labels.OWNER])["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and labels.SESSION in thing.labels else None


def _log_of(engine: Engine, container: Listed) -> str:
    try:
        return engine.logs(container.id)
    except OrchestratorError as error:  # it may be going already
        return f"(no log: {error})\n"


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _told(container: Listed, log: str, *, lines: int) -> str:
    tail = "\n".join(log.rstrip().splitlines()[-lines:]) if lines else ""
    return f"Last log lines of {container.labels[labels.SERVICE]}:\n{textwrap.indent(tail, '    ')}"


def _keep(container: Listed, log: str, folder: Path) -> None:
    from orchestrator.environment.keeping import write_log

    try:
        write_log(
            folder,
            test_class=container.labels.get(labels.CLASS, ""),
            alias=container.labels[labels.SERVICE],
            text=log,
        )
    except OSError as error:
        raise OrchestratorError(f"{folder} cannot be written: {error.strerror}") from error
