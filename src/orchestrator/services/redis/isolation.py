"""Clean state for each test: an empty server, or a user that reaches its own keys only.

What a test leaves besides keys goes too: clients that still work, settings and users it changed.
And the redis-py clients of one handle: opened for a test, closed after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.errors import ServiceError
from orchestrator.services.once import OwnStack, driver, locked_property
from orchestrator.services.options import random_password
from orchestrator.services.tls import PemFiles

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import redis
    import redis.asyncio

    Counts = Mapping[str, int]

Isolation = Literal["flush", "prefix", "none"]

_CLOSING: Final = 5.0  # seconds for an asyncio client
_log: Final = logging.getLogger("orchestrator.redis")

_EMPTY: Final = ("FLUSHALL",)
_NO_SCRIPTS: Final = ("SCRIPT", "FLUSH")  # makes a new Lua, which takes longer than all the rest
_NO_FUNCTIONS: Final = ("FUNCTION", "FLUSH")
# What concerns more than one's own keys is dangerous in Redis's own words; the harmless part of
# that is given back. Scripts and functions are the server's, not a prefix's.
_HARMLESS: Final = "+@all -@dangerous +info +keys +sort +role -script +script|load +script|exists"
# And where other processes work on the server, too, what tells of all keys.
_OF_OTHERS: Final = ("-dbsize", "-randomkey")
_FUNCTIONS_SINCE: Final = 7
# Deletes the keys of a prefix, in every database that has any, in one round trip.
_DELETE: Final = """
    for database in redis.call('INFO', 'keyspace'):gmatch('db(%d+):') do
        redis.call('SELECT', database)
        local cursor = '0'
        repeat
            local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1] .. '*', 'COUNT', 1000)
            cursor = page[1]
            for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
        until cursor == '0'
    end
"""
# Subcommands that change nothing. A server before 7.0 does not count them apart.
_READS: Final = ("cat", "dryrun", "genpass", "get", "getuser", "list", "log", "users", "whoami")
_OTHERS: Final = ("replicaof", "slaveof", "client|pause")
_LOADS: Final = ("eval", "eval_ro", "script", "script|load", "function|load", "function|restore")
_CONNECT_TIMEOUT: Final = 10  # seconds
_ADMIN_TIMEOUT: Final = 5.0
_LOOK: Final = (("CLIENT", "LIST"), ("INFO", "commandstats"), ("CLIENT", "ID"))
_CLIENT: Final = re.compile(rb"^id=(\d+) addr=(\S+)", re.MULTILINE)
_CALLS: Final = re.compile(rb"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What was there when a test began: addresses of clients, and counts of changes."""

    clients: frozenset[bytes]
    counts: Counts


class ServerState:
    """A server as its administrator sees it; the class and its tests share it.

    Args:
        open_admin: Opens the administrator's client, which outlives a restart.
        service: What errors call the server.
        part: Whose user may touch keys that begin with this name; empty where the server is one
            class's own.

    Attributes:
        alone: Held while the administrator's one connection is used: a failed test's note asks in a
            thread, which a frozen server keeps for longer than the test waits.
    """

    def __init__(
        self, open_admin: Callable[[], redis.Redis], *, service: str, part: str = ""
    ) -> None:
        self._open_admin = open_admin
        self._service = service
        self._part = part
        self._settings: Mapping[str, str] = {}  # as the class has them
        self._users: Mapping[str, str] = {}
        self._counts: Counts | None = None  # of changes, when those two were taken
        self._loaded: int | None = None  # how often scripts had been, when the last were flushed
        self.alone = threading.RLock()

    @locked_property
    def admin(self) -> Any:  # redis-py's own types are wrong about pipelines
        """The administrator's client."""
        return self._open_admin()

    @locked_property
    def _build(self) -> Mapping[str, Any]:
        """What the server tells of itself."""
        build: Mapping[str, Any] = self.admin.info("server")
        return build

    @property
    def in_cluster_mode(self) -> bool:
        """Whether it has one database only, and no master but by the cluster's word."""
        return str(self._build["redis_mode"]) == "cluster"

    @property
    def _has_functions(self) -> bool:
        return int(str(self._build["redis_version"]).partition(".")[0]) >= _FUNCTIONS_SINCE

    @contextlib.contextmanager
    def isolated(self, test: str, isolation: Isolation) -> Iterator[Mapping[str, Any]]:
        """What a test's handle has otherwise than the class's; gone when the block ends.

        Raises:
            ServiceError: This server refuses what that takes.
        """
        if isolation == "none":
            yield {}
            return
        if self._part:
            with self.own_user(f"{self._part}.{test}") as own:
                yield own
            return
        make: Sequence[str] = _EMPTY
        login: dict[str, Any] = {}
        with self._possible(isolation):
            if isolation == "prefix":
                password = random_password()
                make = self._make_user(test, password)
                login = {"_username": test, "password": password, "_make_user": make}
            before = self._begin(make, user=test if login else None)
        try:
            yield login
        finally:
            with self._possible(isolation):
                self._restore(before, test=test, drop=_drop_user(test) if login else ())

    @contextlib.contextmanager
    def own_user(self, name: str) -> Iterator[Mapping[str, Any]]:
        """A user of a server that others use: it can do nothing outside the keys of its name."""
        password = random_password()
        with self._possible("prefix"):
            self.admin.execute_command(*self._make_user(name, password), *_OF_OTHERS)
        try:
            yield {"_username": name, "password": password}
        finally:
            with self._possible("prefix"):
                _check(self._ask(_drop_user(name)))

    @contextlib.contextmanager
    def _possible(self, isolation: Isolation) -> Iterator[None]:
        """Say what is to be done where a server, such as a replica, cannot be isolated."""
        try:
            with self.alone:
                yield
        except driver("redis.exceptions", extra="redis").ResponseError as error:
            raise ServiceError(
                f"{self._service}: isolation={isolation!r} is not possible with this server, which "
                f"refuses it: {error}. Declare it with isolation='none', or without the setting "
                "that forbids it.",
                service=self._service,
            ) from error

    def _make_user(self, test: str, password: str) -> Sequence[str]:
        """The command that makes a test's user."""
        keys = f"{test}:*"
        may_use = (f"~{keys}", f"&{keys}", f"&__keyspace@*__:{keys}")
        may_call = [*_HARMLESS.split(), *(["-function"] if self._has_functions else [])]
        return ("ACL", "SETUSER", test, "reset", "on", verifier(password), *may_use, *may_call)

    def _begin(self, command: Sequence[str], *, user: str | None) -> _Before:
        """See what is there before a test, and execute a command, in one round trip.

        `user` is whom it makes.
        """
        clients, counts, loaded, _ = self._look([command])
        if user is None and (loaded != self._loaded or counts != self._counts):
            scripts = [_NO_SCRIPTS, *([_NO_FUNCTIONS] if self._has_functions else [])]
            _check(self._ask(scripts))
            self._loaded = loaded
        if counts != self._counts:  # setUpClass, or nobody yet, made what is there now
            self._users = {name: its for name, its in self._rules().items() if name != user}
            self._settings = self.admin.config_get("*")
            self._counts = counts
        return _Before(
            clients=frozenset(clients.values()),
            counts={**counts, "acl": counts["acl"] + (user is not None)},
        )

    def _restore(self, before: _Before, *, test: str, drop: Sequence[Sequence[str]]) -> None:
        """End the clients that came since, and restore the settings and users that were changed.

        `drop` are the commands that drop a test's user, if it has one.
        """
        clients, counts, _, own = self._look()
        new = (number for number, at in clients.items() if at not in before.clients)
        kill = [("CLIENT", "KILL", "ID", str(number)) for number in new if number != own]
        known = counts == before.counts
        if not known:
            _log.info("%s changed settings or users of %s; they are restored", test, self._service)
            self._ask(kill)
            kill = []
            self._restore_settings_and_users(test)
        replies = self._ask([*kill, *drop])
        _check(replies[len(kill) :])  # a client may have gone by itself
        self._counts = {**counts, "acl": counts["acl"] + bool(drop)} if known else None

    def _look(
        self, commands: Sequence[Sequence[str]] = ()
    ) -> tuple[Mapping[int, bytes], Counts, int, int]:
        """The clients' addresses by id, counts of changes and of scripts that were loaded, our id.

        Then execute commands.

        Raises:
            ResponseError: The server refuses one of them.
        """
        replies = self._ask([*_LOOK, *commands])
        _check(replies)
        clients, statistics, own, *_ = replies
        addresses = {int(number): address for number, address in _CLIENT.findall(clients)}
        calls = {name.decode(): int(times) for name, times in _CALLS.findall(statistics)}
        return addresses, _changes(calls), sum(calls.get(name, 0) for name in _LOADS), own

    def _ask(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        """The replies to commands, errors too, in one round trip.

        redis-py's pipelines take twice as long, most of it to read more than is asked here.
        """
        refused = driver("redis.exceptions", extra="redis").ResponseError
        connection = self.admin.connection

        def exchange() -> list[Any]:
            connection.send_packed_command(connection.pack_commands(commands))
            replies = []
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except refused as error:
                    replies.append(error)
            return replies

        retry = connection.retry.call_with_retry
        return list(retry(exchange, lambda _: connection.disconnect())) if commands else []

    def _restore_settings_and_users(self, test: str) -> None:
        if not self.in_cluster_mode:
            self.admin.execute_command("REPLICAOF", "NO", "ONE")
        self.admin.execute_command("CLIENT", "UNPAUSE")
        rules, settings = self._rules(), self.admin.config_get("*")
        added = rules.keys() - self._users.keys() - {test}
        replies = self._ask(
            [
                *(("ACL", "DELUSER", name) for name in added),
                *(
                    ("ACL", "SETUSER", name, "reset", *its.split())
                    for name, its in self._users.items()
                    if rules.get(name) != its
                ),
                *(
                    ("CONFIG", "SET", name, value)
                    for name, value in self._settings.items()
                    if settings.get(name) != value
                ),
            ]
        )
        _check(replies)

    def _rules(self) -> dict[str, str]:
        """The rules of each user; a line of ACL LIST is ``user NAME RULES``."""
        lines = (
            line.decode() if isinstance(line, bytes) else line for line in self.admin.acl_list()
        )
        return {name: rules for _, name, rules in (line.split(" ", 2) for line in lines)}


def verifier(password: str) -> str:
    """A password as an ACL rule that does not tell it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def _drop_user(name: str) -> Sequence[Sequence[str]]:
    return ("ACL", "DELUSER", name), ("EVAL", _DELETE, "0", f"{name}:")


def _check(replies: Iterable[object]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _changes(calls: Counts) -> Counts:
    """How often something was called that changes settings, users, or the server's role."""
    counts = {"config": 0, "acl": 0, "others": 0}
    for command, times in calls.items():
        group, _, subcommand = command.partition("|")
        if group in ("config", "acl") and subcommand not in _READS:
            counts[group] += times
        elif command in _OTHERS:
            counts["others"] += times
    return counts


class Clients:
    """The clients, and the files that they read, of one handle; `settings` are redis-py's."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {"socket_connect_timeout": _CONNECT_TIMEOUT, **settings}
        self._open = OwnStack()

    def open(self, **config: Any) -> redis.Redis:
        """Open a client for synchronous code; `close` closes it."""
        client: redis.Redis = driver("redis", extra="redis").Redis(**self._settings, **config)
        self._open.callback(client.close)
        return client

    def open_async(self) -> redis.asyncio.Redis:
        """Open a client for asyncio; `close` closes it in its event loop, if that still exists."""
        import asyncio  # not at import: declaring must be cheap

        client: redis.asyncio.Redis = driver("redis.asyncio", extra="redis").Redis(**self._settings)
        with contextlib.suppress(RuntimeError):
            self._open.callback(_close, client, asyncio.get_running_loop())
        return client

    def open_admin(self) -> redis.Redis:
        """Open a client that connects again, once, when the server was restarted.

        It does not wait for a frozen server. Where the network was cut, the old connection may stay
        silent for longer than a new one needs.
        """
        errors = driver("redis.exceptions", extra="redis")
        broken = (errors.ConnectionError, errors.TimeoutError)
        no_backoff = driver("redis.backoff", extra="redis").NoBackoff()
        retry = driver("redis.retry", extra="redis").Retry
        return self.open(
            single_connection_client=True,
            retry=retry(no_backoff, 1, supported_errors=broken),
            retry_on_error=[*broken],
            socket_timeout=_ADMIN_TIMEOUT,
        )

    def file(self, name: str, content: bytes) -> str:
        """The path of a file that `close` removes."""
        return self._open.enter_context(PemFiles()).write(name, content)

    def close(self) -> None:
        """Close all that are still open, the last one first."""
        self._open.close()


def _close(client: redis.asyncio.Redis, loop: asyncio.AbstractEventLoop) -> None:
    import asyncio  # not at import: declaring must be cheap

    if loop.is_running():
        closing = asyncio.run_coroutine_threadsafe(client.aclose(), loop)
        if asyncio.events._get_running_loop() is not loop:  # noqa: SLF001 - None where none runs
            closing.result(_CLOSING)
    elif not loop.is_closed():
        loop.run_until_complete(client.aclose())
