"""Init files: SQL and shell that the server runs at its first start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.services import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.postgres_server import PostgresServer

_FOLDER: Final = "/docker-entrypoint-initdb.d"
_RUNNING: Final = re.compile(rf"running {_FOLDER}/(\d+)-", re.MULTILINE)
_PSQL: Final = re.compile(rf"^psql:{_FOLDER}/\S+:(?P<line>\d+): (?P<error>.+)$", re.MULTILINE)
_STATE: Final = re.compile(r"database system is (?P<state>ready to accept|shut down)")
# A FATAL of the server itself; those of one connection, such as these, end no server.
_FATAL: Final = re.compile(
    r"FATAL:\s+(?!terminating connection|the database system is)(?P<error>.+)$", re.MULTILINE
)
_PANIC: Final = re.compile(r"PANIC:\s+(?P<error>.+)$", re.MULTILINE)


def server_files(service: PostgresServer) -> Mapping[str, bytes]:
    """The files by their place in the container, numbered so that they run in the order given.

    A compressed one is unpacked: psql tells no lines of what it reads from a pipe.

    Raises:
        DeclarationError: A file cannot be read.
    """
    files = {}
    for number, file in enumerate(service.init):
        content = options.read_file(service, "init", file)
        name = Path(file).name
        if name.endswith(".gz"):
            name, content = name.removesuffix(".gz"), _unpacked(content, file)
        files[f"{_FOLDER}/{number:03}-{name}"] = content
    return files


def why_ended(service: PostgresServer, logs: str) -> str:
    """What the log of a server that ended says about the reason; empty when nothing."""
    if running := list(_RUNNING.finditer(logs)):
        last = running[-1]
        file = str(service.init[int(last[1])]) if int(last[1]) < len(service.init) else "?"
        if error := _PSQL.search(logs, last.end()):
            return f"the init file {file} failed in line {error['line']}: {error['error']}"
        if "database system is shut down" not in logs[last.end() :]:
            return f"the init file {file} failed"
    told = list(_STATE.finditer(logs))
    served = bool(told) and told[-1]["state"] != "shut down"
    fatal = _PANIC.search(logs) or (None if served else _FATAL.search(logs))
    return fatal["error"] if fatal else ""


def _unpacked(content: bytes, file: str | Path) -> bytes:
    import gzip  # not at import: few declare such a file

    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise DeclarationError(f"Postgres(init=…) cannot unpack {str(file)!r}: {error}") from error
