"""`Redis`: a server of the class's own, emptied for every test."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from urllib.parse import quote

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options
from orchestrator.services.drivers import driver
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis
    import redis.asyncio

    from orchestrator.probes import Probe, Target
    from orchestrator.services.runtime import Runtime

Isolation = Literal["flush", "none"]
Policy = Literal[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]
POLICIES = (
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
)


class Redis(Service):
    """A Redis server. It persists nothing, and asks for a password.

    Attributes:
        maxmemory: The most its data may take, such as ``"2mb"``.
        maxmemory_policy: What it does then, such as ``"allkeys-lru"``.
        settings: More of redis.conf, such as ``{"notify-keyspace-events": "Ex"}``.
        isolation: ``"flush"`` empties it before every test, ``"none"`` does nothing.
        password: The default user's password; a random one without.
    """

    lock_entry: ClassVar[str] = "redis"
    container_port: ClassVar[int] = 6379

    maxmemory: str | int | None = None
    maxmemory_policy: Policy | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    isolation: Isolation = "flush"
    password: str | None = field(default=None, repr=False)
    _test: str = options.private("")

    def check_options(self) -> None:
        """Raise DeclarationError for a value that Redis would refuse."""
        if self.maxmemory is not None and not options.is_size(self.maxmemory):
            raise DeclarationError(
                f"Redis(maxmemory={self.maxmemory!r}) cannot be used: expected bytes, or text "
                "such as '2mb'"
            )
        if self.maxmemory_policy is not None:
            options.choice(self, "maxmemory_policy", self.maxmemory_policy, POLICIES)
        options.check_environment(self, "settings", self.settings)
        options.choice(self, "isolation", self.isolation, ("flush", "none"))
        options.check_password(self, self.password)

    def bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with a password in place."""
        return super().bound(runtime, password=self.password or runtime.password, **changes)

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")

    def server_command(self) -> Sequence[str]:
        """Settings as arguments; never the password, which a process list would show."""
        limits = {"maxmemory": self.maxmemory, "maxmemory-policy": self.maxmemory_policy}
        settings = {
            "save": "",  # a test's server has nothing to lose, and forking costs time
            **{name: str(value) for name, value in limits.items() if value is not None},
            **self.settings,
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

    def readiness(self) -> Probe:
        """It answers PING; while it loads a data set it says LOADING instead."""
        return Call(_ping)

    def started(self) -> None:
        """Ask for the password from now on, before anybody but us knows the port."""
        client = self._connect(password=None)
        try:
            client.config_set("requirepass", self.password or "")
        finally:
            client.close()

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """An empty server, and a handle with connections of its own."""
        if self.isolation == "flush":
            self.client.flushall()
        handle = self.copy_with(_test=test)
        try:
            yield handle
        finally:
            handle.release()

    def release(self) -> None:
        """Close the client's connections."""
        if "client" in self.__dict__:
            self.client.close()

    def secrets(self) -> Sequence[str]:
        """The password, as it is and as it stands in a URL."""
        return options.spellings(self.password)

    def server_info(self) -> Mapping[str, object]:
        """Version, memory limit and policy."""
        server, memory = self.client.info("server"), self.client.info("memory")
        return {
            "server": f"Redis {server['redis_version']}",
            "maxmemory": memory["maxmemory"],
            "maxmemory_policy": memory["maxmemory_policy"],
            "used_memory_peak": memory["used_memory_peak"],
        }

    @property
    def url(self) -> str:
        """``redis://…`` for a program on this machine; it contains the password."""
        return f"redis://default:{quote(self.password or '', safe='')}@{self.host}:{self.port}/0"

    @property
    def internal_url(self) -> str:
        """``redis://…`` for another container of the class; it contains the password."""
        secret = quote(self.password or "", safe="")
        return f"redis://default:{secret}@{self.alias}:{self.container_port}/0"

    @cached_property
    def client(self) -> redis.Redis:
        """A redis-py client; values are bytes. It is closed after the test."""
        return self._connect(password=self.password)

    @cached_property
    def async_client(self) -> redis.asyncio.Redis:
        """A redis-py asyncio client; close it in the test, as its loop ends there."""
        module = driver("redis.asyncio", extra="redis")
        client: redis.asyncio.Redis = module.Redis(
            host=self.host, port=self.port, password=self.password
        )
        return client

    @property
    def prefix(self) -> str:
        """What this test's keys begin with, for code that shares a server."""
        return f"{self._test or self.alias}:"

    def key(self, name: str) -> str:
        """A key of this test."""
        return f"{self.prefix}{name}"

    def _connect(self, *, password: str | None) -> redis.Redis:
        client: redis.Redis = driver("redis", extra="redis").Redis(
            host=self.host, port=self.port, password=password, socket_connect_timeout=10
        )
        return client


def _ping(target: Target) -> None:
    with connect(target) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(256)
    if not answer.startswith((b"+PONG", b"-NOAUTH")):
        raise NotReadyError(answer.decode(errors="replace").strip() or "the connection was closed")
