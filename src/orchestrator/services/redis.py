"""`Redis`: a server of the class's own, with clean state for every test."""

from __future__ import annotations

import contextlib
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call
from orchestrator.services import options, redis_clients, redis_options, redis_server
from orchestrator.services.once import OwnStack, locked_property
from orchestrator.services.redis_isolation import isolation
from orchestrator.services.redis_leftovers import Known
from orchestrator.services.runtime import address
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import redis
    import redis.asyncio

    from orchestrator.probes import Probe
    from orchestrator.services.redis_options import Isolation, Policy
    from orchestrator.services.redis_server import Identity
    from orchestrator.services.runtime import Runtime


class Redis(Service):
    """A Redis server, version 6.2 or later. It persists nothing, and asks for a password.

    Attributes:
        maxmemory: The most its data may take, such as ``"2mb"``.
        maxmemory_policy: What it does then, such as ``"allkeys-lru"``.
        settings: More of redis.conf, such as ``{"notify-keyspace-events": "Ex"}``.
        users: More users by name, with their ACL rules such as ``"~app:* +@all -@dangerous"``;
            tests reach them by `as_user`.
        isolation: What every test gets. ``"flush"``: an empty server; what setUpClass wrote is gone
            too. ``"prefix"``: a user that may touch no keys and channels but those that begin with
            the test's `prefix`. ``"none"``: the server as it is.
        tls: Whether clients connect by TLS, with certificates made for the occasion.
        strict: Whether a test fails when it tried to touch what is not its own, and when clients of
            an earlier test are still at work; the error names both.
        password: The default user's password; a random one without.
    """

    lock_entry: ClassVar[str] = "redis"
    client_modules: ClassVar[Sequence[str]] = ("redis",)
    container_port: ClassVar[int] = 6379
    usual_memory: ClassVar[int] = 64 << 20

    maxmemory: str | int | None = None
    maxmemory_policy: Policy | None = None
    settings: Mapping[str, str | float] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    isolation: Isolation = "flush"
    tls: bool = False
    strict: bool = False
    password: str | None = field(default=None, repr=False)
    _test: str = options.private("")
    _username: str = options.private("default")
    _database: int = options.private(0)
    _rules: Sequence[str] = options.private(())
    _of_class: Redis | None = options.private(None)
    _clients: OwnStack | None = options.private(None)
    _related: dict[str, Redis] | None = options.private(None)
    _user_passwords: Mapping[str, str] | None = options.private(None)
    _identity: Identity | None = options.private(None)
    _known: Known | None = options.private(None)
    _tests: list[str] | None = options.private(None)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that Redis would refuse."""
        redis_options.check(self)

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with passwords and certificates in place."""
        hosts = (runtime.engine.host, runtime.alias, "localhost")
        return super()._bound(
            runtime,
            **{
                "password": self.password or runtime.password,
                "_user_passwords": {user: options.random_password() for user in self.users},
                "_identity": redis_server.make_identity(*hosts) if self.tls else None,
                "_clients": OwnStack(),
                "_related": {},
                "_known": Known(),
                "_tests": [],
                **changes,
            },
        )

    def _joined(self, runtime: Runtime, /) -> Self:
        """The handle for one more class; what it opens is closed with that class."""
        return self.copy_with(_runtime=runtime, _clients=OwnStack(), _related={})

    # The server

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")

    def server_command(self) -> Sequence[str]:
        """Settings and users as arguments; never a password, which a process list would show."""
        return redis_server.command(self)

    def server_files(self) -> Mapping[str, bytes]:
        """Certificates, with TLS."""
        return redis_server.files(self.identity)

    def readiness(self) -> Probe:
        """It answers PING."""
        return Call(redis_server.answers)

    def why_ended(self) -> str:
        """The setting or the user that it could not read."""
        return redis_server.why_ended(self.logs())

    def started(self) -> None:
        """Make the user of a test that restarted the server anew."""
        if self._rules:
            self.of_class.admin.execute_command(*self._rules)

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A handle of an empty server, or of a user that reaches its own keys only."""
        with isolation(self, test=test) as changes, OwnStack() as clients:
            yield self.copy_with(
                _test=test, _of_class=self, _clients=clients, _related={}, **changes
            )

    def release(self) -> None:
        """Close what was opened with the class's handle."""
        if self._clients:
            self._clients.close()

    def secrets(self) -> Sequence[str]:
        """The passwords, as they are and as they stand in a URL."""
        passwords = [self.password, *(self._user_passwords or {}).values()]
        return [text for password in passwords for text in options.spellings(password)]

    def server_info(self) -> Mapping[str, object]:
        """Version, mode, memory limit, policy, and the most memory it used."""
        server, memory = (self.of_class.admin.info(part) for part in ("server", "memory"))
        return {
            "server": f"Redis {server['redis_version']} ({server['redis_mode']})",
            "maxmemory": memory["maxmemory_human"],
            "maxmemory_policy": memory["maxmemory_policy"],
            "used_memory_peak": memory["used_memory_peak_human"],
            "isolation": self.isolation,
        }

    # What a test uses

    @property
    def url(self) -> str:
        """``redis://…`` for a program on this machine; it contains the password."""
        return redis_clients.url(self, address(self.host, self.port), verified=True)

    @property
    def internal_url(self) -> str:
        """``redis://…`` for another container of the class; it contains the password."""
        return redis_clients.url(self, f"{self.alias}:{self.container_port}", verified=False)

    @locked_property
    def client(self) -> redis.Redis:
        """A redis-py client; values are bytes. It is closed after the test."""
        return redis_clients.client(self)

    @locked_property
    def async_client(self) -> redis.asyncio.Redis:
        """A redis-py asyncio client; values are bytes. It is closed after the test."""
        return redis_clients.async_client(self)

    @property
    def username(self) -> str:
        """The user that clients connect as."""
        return self._username

    @property
    def database(self) -> int:
        """The number of the database that clients connect to."""
        return self._database

    @property
    def prefix(self) -> str:
        """What this test's keys begin with, for code that shares a server."""
        return f"{self._test or self.alias}:"

    def key(self, name: str) -> str:
        """A key of this test."""
        return f"{self.prefix}{name}"

    def in_database(self, number: int) -> Self:
        """The same for another of the server's databases, 0 to 15 unless ``settings`` say more.

        Raises:
            DeclarationError: The server has no such database.
        """
        count = int(self.settings.get("databases", 16))
        if not isinstance(number, int) or not 0 <= number < count:
            raise DeclarationError(
                f"{self.alias} has the databases 0 to {count - 1}, not {number!r}"
            )
        return self._relative(f"database {number}", _database=number)

    def as_user(self, name: str) -> Self:
        """The same for one of the class's ``users``.

        Raises:
            DeclarationError: The class does not declare it.
        """
        if name not in self.users:
            listed = ", ".join(map(repr, self.users)) or "none"
            raise DeclarationError(f"{self.alias} has no user {name!r}; it has {listed}")
        return self._relative(f"user {name}", _username=name, password=self.password_of(name))

    # What the files of this service share

    @property
    def of_class(self) -> Redis:
        """The class's handle."""
        return self._of_class or self

    @property
    def clients(self) -> OwnStack:
        """Closes what was opened with this handle."""
        assert self._clients is not None  # noqa: S101 - every bound handle has them
        return self._clients

    @property
    def identity(self) -> Identity | None:
        """What the server shows with TLS."""
        return self._identity

    @locked_property
    def ca_file(self) -> str | None:
        """With TLS, a file with the authority that clients must trust; gone after the test."""
        from orchestrator.services.certificates import PemFiles  # only few use TLS

        if self.identity is None:
            return None
        files = self.clients.enter_context(PemFiles())
        return files.write("ca.pem", self.identity.authority.certificate)

    @property
    def known(self) -> Known:
        """The server's settings and users as the class has them."""
        assert self._known is not None  # noqa: S101 - every bound handle has it
        return self._known

    @property
    def tests(self) -> list[str]:
        """The tests that have ended, with ``strict=True``."""
        assert self._tests is not None  # noqa: S101 - every bound handle has it
        return self._tests

    @locked_property
    def admin(self) -> Any:  # redis-py's own types are wrong about pipelines
        """The class's redis-py client that makes and drops tests' state; it outlives a restart."""
        return redis_clients.client(self, **redis_clients.reconnecting())

    @locked_property
    def major(self) -> int:
        """The server's major version."""
        return int(str(self.admin.info("server")["redis_version"]).partition(".")[0])

    def password_of(self, user: str) -> str:
        """A user's password."""
        passwords = self._user_passwords or {}
        return (self.password or "") if user == "default" else passwords[user]

    def _relative(self, key: str, **changes: Any) -> Self:
        """One handle for each relative, so that its client is one too."""
        related: dict[str, Any] = {} if self._related is None else self._related
        found: Self = related.setdefault(key, self.copy_with(_related={}, **changes))
        return found
