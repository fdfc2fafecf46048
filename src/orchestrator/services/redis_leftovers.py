"""What a test left on the server besides keys, and how it goes away."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.redis import Redis

    Marks = Mapping[str, int]

_log: Final = logging.getLogger("orchestrator.redis")

# Subcommands that change nothing. A server before 7.0 does not count them apart.
_READS: Final = ("cat", "dryrun", "genpass", "get", "getuser", "list", "log", "users", "whoami")
_OTHERS: Final = ("replicaof", "slaveof", "client|pause")


@dataclass(eq=False)
class Known:
    """The server's settings and users as the class has them.

    Attributes:
        marks: How often they had been changed when they were read.
    """

    marks: Marks | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What was there at one moment.

    Attributes:
        clients: The addresses of connections.
        marks: How often settings and users had been changed.
    """

    clients: frozenset[str]
    marks: Marks


def begin(service: Redis, *commands: Sequence[str], own: int = 0) -> Sight:
    """See what is there before a test, and execute commands, in one round trip.

    Args:
        service: The class's handle.
        commands: What to execute; what the server does not know is passed over.
        own: How many of them change users.
    """
    pipeline = service.admin.pipeline(transaction=False)
    pipeline.client_list().info("commandstats")
    for command in commands:
        pipeline.execute_command(*command)
    clients, statistics, *replies = pipeline.execute(raise_on_error=False)
    for reply in (clients, statistics, *replies):
        if isinstance(reply, Exception) and "unknown command" not in str(reply).lower():
            raise reply
    marks = _marks(statistics)
    if marks != service.known.marks:
        _read(service, marks)
    return Sight(
        clients=frozenset(client["addr"] for client in clients),
        marks={**marks, "acl": marks["acl"] + own},
    )


def clear_away(service: Redis, before: Sight, *, test: str) -> None:
    """End the clients that came since, and put back the settings and users that were changed."""
    pipeline = service.admin.pipeline(transaction=False)
    pipeline.client_id().client_list().info("commandstats")
    own, clients, statistics = pipeline.execute()
    pipeline = service.admin.pipeline(transaction=False)
    for client in clients:
        if client["addr"] not in before.clients and int(client["id"]) != own:
            pipeline.execute_command("CLIENT", "KILL", "ID", client["id"])
    pipeline.execute(raise_on_error=False)  # one may have gone by itself
    marks = _marks(statistics)
    service.known.marks = marks
    if marks != before.marks:
        _log.info("%s changed settings or users of %s; they are put back", test, service.alias)
        _put_back(service.admin, service.known, test=test)
        service.known.marks = None


def _put_back(admin: Any, known: Known, *, test: str) -> None:
    admin.execute_command("REPLICAOF", "NO", "ONE")
    admin.execute_command("CLIENT", "UNPAUSE")
    pipeline = admin.pipeline(transaction=False)
    users = _users(admin)
    for name in users.keys() - known.users.keys() - {test}:
        pipeline.execute_command("ACL", "DELUSER", name)
    for name, rules in known.users.items():
        if users.get(name) != rules:
            pipeline.execute_command("ACL", "SETUSER", name, "reset", *rules.split())
    settings = admin.config_get("*")
    for name, value in known.settings.items():
        if settings.get(name) != value:
            pipeline.execute_command("CONFIG", "SET", name, value)
    pipeline.execute()


def _read(service: Redis, marks: Marks) -> None:
    known = service.known
    known.marks, known.users = marks, _users(service.admin)
    known.settings = service.admin.config_get("*")


def _users(admin: Any) -> dict[str, str]:
    """The rules of each user; a line of ACL LIST is ``user NAME RULES``."""
    lines = (_text(line).split(" ", 2) for line in admin.acl_list())
    return {name: rules for _, name, rules in lines}


def _marks(statistics: Mapping[str, Any]) -> Marks:
    """How often something was called that changes settings, users, or the server's role."""
    marks = {"config": 0, "acl": 0, "others": 0}
    for name, statistic in statistics.items():
        command = name.removeprefix("cmdstat_")
        group, _, subcommand = command.partition("|")
        if group in ("config", "acl") and subcommand not in _READS:
            marks[group] += statistic["calls"]
        elif command in _OTHERS:
            marks["others"] += statistic["calls"]
    return marks


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
