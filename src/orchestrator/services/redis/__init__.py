"""`Redis`: a server of the class's own, with clean state for every test."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, get_args
from urllib.parse import quote, urlencode

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options
from orchestrator.services.hooks import address, host_names
from orchestrator.services.once import driver, locked_property
from orchestrator.services.redis.isolation import Clients, Isolation, ServerState, verifier
from orchestrator.services.service import Service
from orchestrator.services.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis
    import redis.asyncio

    from orchestrator.probes import Probe
    from orchestrator.services.hooks import Runtime

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
_SETTING: Final = re.compile(r"[a-z][a-z0-9-]*")
_MEMORY: Final = re.compile(r"\d+[kmg]?b?", re.IGNORECASE)
_USER: Final = re.compile(r"[!-~]{1,63}")
_OURS: Final = {
    "user": "it is given by users=",
    "requirepass": "it is given by password=",
    "aclfile": "it is given by users=",
    "port": "others rely on 6379",
    "tls-port": "it is given by tls=True",
    "maxmemory": "it is given by maxmemory=",
    "maxmemory-policy": "it is given by maxmemory_policy=",
    "daemonize": "the container would end with the process that it began with",
}
# What clean state takes.
_ALWAYS: Final = frozenset({"acl", "client", "config", "info", "replicaof"})
_NEEDED: Final = {
    "none": frozenset[str](),
    "flush": _ALWAYS | {"flushall", "function", "script"},
    "prefix": _ALWAYS | {"eval", "scan", "select", "unlink"},
}
# Rules that give a user a password, or take it: those are made by the service, and never told.
_PASSWORD_RULES: Final = re.compile(r"[><#!].*|nopass|resetpass|reset")
_CERTIFICATES: Final = "/etc/orchestrator-tls"
_COMPLAINT: Final = re.compile(
    r"^.*(?:FATAL CONFIG FILE ERROR|Error in user declaration).*$", re.MULTILINE
)
_DETAIL: Final = re.compile(r"^>>> (?P<line>.+)\n(?P<error>.+)$", re.MULTILINE)


class Redis(Service):
    """A Redis server, version 6.2 or later. It asks for a password, and saves nothing by default.

    In cluster mode (``settings={"cluster-enabled": True}``) the class gives it slots. A replica has
    to be declared with ``isolation="none"``: clean state means writing.

    Attributes:
        maxmemory: The most its data may take, such as ``"2mb"``.
        maxmemory_policy: What it does then, such as ``"allkeys-lru"``.
        settings: More of redis.conf, such as ``{"notify-keyspace-events": "Ex"}``.
        users: More users by name, with their ACL rules such as ``"~app:* +@all -@dangerous"``;
            tests reach them by `as_user`.
        isolation: What every test gets. ``"flush"``: an empty server; what setUpClass wrote is gone
            too. ``"prefix"``: a user that may touch no keys and channels but those that begin with
            the test's `prefix`. ``"none"``: the server as it is. With ``scope="run"`` it is always
            a user of such a prefix: of the test, or with ``"none"`` of the class.
        tls: Whether clients connect by TLS, with certificates made for the occasion.
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
    password: str | None = field(default=None, repr=False)
    _test: str = options.private("")
    _username: str = options.private("default")
    _database: int = options.private(0)
    _make_user: Sequence[str] = options.private(())
    _class_state: ServerState | None = options.private(None)
    _user_passwords: Mapping[str, str] = field(default_factory=dict, init=False, repr=False)
    _certificates: Tls | None = options.private(None)

    # The server

    def check_options(self) -> None:
        """Raise DeclarationError for a value that Redis would refuse."""
        good = self.maxmemory is None or _MEMORY.fullmatch(str(self.maxmemory)) is not None
        options.check(self, "maxmemory", good, "bytes, or text such as '2mb'")
        if self.maxmemory_policy is not None:
            options.choice(self, "maxmemory_policy", self.maxmemory_policy, get_args(Policy))
        options.choice(self, "isolation", self.isolation, get_args(Isolation))
        if self.scope == "run" and self.isolation == "flush":
            options.normalise(self, isolation="prefix")
        options.check_password(self, self.password)
        options.check_flag(self, "tls", self.tls)
        good = isinstance(self.settings, Mapping) and all(map(_is_setting, self.settings.items()))
        options.check(self, "settings", good, "a mapping of a setting's name to its value")
        for name in self.settings:
            if name in _OURS:
                raise DeclarationError(f"Redis(settings=…) cannot have {name!r}: {_OURS[name]}")
        renamed = _words(self.settings.get("rename-command", ""))[0].lower()
        if renamed in _NEEDED[self.isolation]:
            raise DeclarationError(
                f"Redis(settings=…) cannot have 'rename-command' for {renamed.upper()}, which "
                f"isolation={self.isolation!r} works with: declare isolation='none'"
            )
        self._check_users()

    def _check_users(self) -> None:
        good = isinstance(self.users, Mapping) and all(
            isinstance(name, str) and _USER.fullmatch(name) and options.is_text(rules, empty=True)
            for name, rules in self.users.items()
        )
        options.check(self, "users", good, "a mapping of a name to ACL rules")
        if "default" in self.users:
            raise DeclarationError(
                "Redis(users=…) cannot have 'default': it is the user of the service's own "
                "clients, and may do everything"
            )
        if self.scope == "run" and self.users:
            raise DeclarationError(
                "Redis(users=…) cannot be used with scope='run': they could touch the keys of "
                "other classes and workers. Each test has a user of its own, see `username`"
            )
        for name, rules in self.users.items():
            for rule in filter(_PASSWORD_RULES.fullmatch, rules.split()):
                raise DeclarationError(
                    f"Redis(users=…) cannot give {name!r} the rule {rule[:1]}…: its password "
                    "is made for you, see as_user()"
                )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with the passwords of users, and certificates."""
        hosts = (runtime.engine.host, "localhost", *host_names(runtime.alias))
        changes["_user_passwords"] = {user: options.random_password() for user in self.users}
        changes["_certificates"] = Tls.create(hosts) if self.tls else None
        return super()._bound(runtime, **changes)

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")

    def server_env(self) -> Mapping[str, str]:
        """The password for ``redis-cli``."""
        return {"REDISCLI_AUTH": self.password or ""}

    def server_shell(self) -> str:
        """Its own client."""
        secured = f" -p {self.container_port} --tls --cacert {_CERTIFICATES}/ca.pem"
        return f"redis-cli{secured if self.tls else ''}"

    def server_command(self) -> Sequence[str]:
        """Settings and users as arguments.

        A password stands there as its SHA-256 only: everybody on a machine may read arguments.
        """
        tls = {
            "port": "0",
            "tls-port": str(self.container_port),
            "tls-ca-cert-file": f"{_CERTIFICATES}/ca.pem",
            "tls-cert-file": f"{_CERTIFICATES}/server.pem",
            "tls-key-file": f"{_CERTIFICATES}/server.key",
            "tls-auth-clients": "no",
        }
        settings: dict[str, str | float | None] = {
            "save": "",  # a test's server has nothing to lose, and forking costs time
            "maxmemory": self.maxmemory,
            "maxmemory-policy": self.maxmemory_policy,
            **(tls if self.tls else {}),
            **self.settings,
        }
        given = [(f"--{name}", value) for name, value in settings.items() if value is not None]
        words = [word for name, value in given for word in (name, *_words(value))]
        for user, rules in {"default": "~* &* +@all", **self.users}.items():
            words += ["--user", user, "on", verifier(self._password_of(user)), *rules.split()]
        return words

    def server_files(self) -> Mapping[str, bytes]:
        """Certificates, with TLS."""
        if (tls := self._certificates) is None:
            return {}
        return {
            f"{_CERTIFICATES}/ca.pem": tls.authority,
            f"{_CERTIFICATES}/server.pem": tls.server.certificate,
            f"{_CERTIFICATES}/server.key": tls.server.key,
        }

    def required_modules(self) -> Mapping[str, str | None]:
        """The client that empties it, and what makes certificates."""
        client = {} if self.isolation == "none" else {"redis": "redis"}
        return {**client, **({"trustme": "tls"} if self.tls else {})}

    def readiness(self) -> Probe:
        """It answers PING; while it loads a data set it says LOADING instead."""
        return Call(self._ping)

    def _ping(self, _: Service) -> None:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(connect(self))
            if self._certificates is not None:
                context = self._certificates.client_context
                secured = context.wrap_socket(connection, server_hostname=self.host)
                connection = stack.enter_context(secured)
            connection.sendall(b"PING\r\n")
            answer = connection.recv(256)
        if not answer.startswith((b"+PONG", b"-NOAUTH")):
            said = answer.decode(errors="replace").strip()
            raise NotReadyError(said or "the connection was closed")

    def why_ended(self) -> str:
        """The setting or the user that it could not read."""
        logs = self.logs()
        complaint = _COMPLAINT.search(logs)
        if complaint is None:
            return ""
        detail = _DETAIL.search(logs, complaint.end())
        return f"{detail['error']}: {detail['line']}" if detail else complaint[0].strip("# *")

    def started(self) -> None:
        """Make the user of a test that restarted the server anew.

        Raises:
            ServiceError: A command of the user's own has given it another password.
        """
        if self.command is not None:
            try:
                self._state.admin.ping()
            except driver("redis", extra="redis").AuthenticationError as error:
                raise ServiceError(
                    f"{self.alias}: the server that command=… starts refuses our "
                    f"password: {error}. Say which it has, by password=.",
                    service=self.alias,
                ) from error
        if self._make_user:
            self._state.admin.execute_command(*self._make_user)

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[Self]:
        """A handle of a user that reaches the class's own keys only; they go with it."""
        with contextlib.closing(self._clients) as clients:
            state = ServerState(clients.open_admin, service=self.alias, part=name)
            with state.own_user(name) as changes:
                own = replace(self.running, password=changes["password"])
                yield self.copy_with(_runtime=own, _test=name, _class_state=state, **changes)

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A handle of an empty server, or of a user that reaches its own keys only."""
        with self._state.isolated(test, self.isolation) as changes:
            name = changes.get("_username", test)
            handle = self.copy_with(_test=name, _class_state=self._state, **changes)
            try:
                yield handle
            finally:
                handle.release()

    def release(self) -> None:
        """Close what was opened with this handle, and with those for other users and databases."""
        for relative in self._relatives.values():
            relative.release()
        self._clients.close()

    def secrets(self) -> Sequence[str]:
        """The passwords of all users."""
        return [*super().secrets(), *self._user_passwords.values()]

    def server_info(self) -> Mapping[str, object]:
        """Version, mode, memory limit, policy, and the most memory it used."""
        with self._state.alone:
            build, memory = (self._state.admin.info(part) for part in ("server", "memory"))
        return {
            "server": f"Redis {build['redis_version']} ({build['redis_mode']})",
            "maxmemory": memory["maxmemory_human"],
            "maxmemory_policy": memory["maxmemory_policy"],
            "used_memory_peak": memory["used_memory_peak_human"],
            "isolation": self.isolation,
        }

    # What a test uses

    @property
    def url(self) -> str:
        """``redis://…`` for a program on this machine; it contains the password."""
        query = f"?{urlencode({'ssl_ca_certs': self.ca_file})}" if self.ca_file else ""
        return f"{self._url(address(self.host, self.port))}{query}"

    @property
    def internal_url(self) -> str:
        """``redis://…`` for another container of the class; it contains the password."""
        return self._url(f"{self.alias}:{self.container_port}")

    @locked_property
    def client(self) -> redis.Redis:
        """A redis-py client; values are bytes. It is closed after the test."""
        return self._clients.open()

    @locked_property
    def async_client(self) -> redis.asyncio.Redis:
        """A redis-py asyncio client; values are bytes. It is closed after the test."""
        return self._clients.open_async()

    @locked_property
    def ca_file(self) -> str | None:
        """With TLS, a file with the authority that clients must trust; gone after the test."""
        tls = self._certificates
        return self._clients.file("ca.pem", tls.authority) if tls else None

    @property
    def username(self) -> str:
        """The user that clients connect as."""
        return self._username

    @property
    def prefix(self) -> str:
        """What this test's keys begin with, for code that shares a server."""
        return f"{self._test or self.alias}:"

    def key(self, name: str) -> str:
        """A key of this test."""
        return f"{self.prefix}{name}"

    def in_database(self, number: int) -> Self:
        """The same for another of the server's databases, 0 to 15 unless ``settings`` say more.

        A server in cluster mode has 0 only.

        Raises:
            DeclarationError: The server has no such database.
        """
        count = 1 if self._state.in_cluster_mode else int(self.settings.get("databases", 16))
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
        return self._relative(f"user {name}", _username=name, password=self._password_of(name))

    # Its own

    def _relative(self, key: str, **changes: Any) -> Self:
        """One handle for each relative, so that its client is one too."""
        new = self.copy_with(_class_state=self._state, **changes)
        found: Self = self._relatives.setdefault(key, new)
        return found

    @locked_property
    def _relatives(self) -> dict[str, Self]:
        return {}

    @locked_property
    def _clients(self) -> Clients:
        """The clients that were opened with this handle."""
        settings = {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
            "db": self._database,
        }
        if self._certificates is not None:
            settings |= {"ssl": True, "ssl_ca_data": self._certificates.authority.decode()}
        return Clients(settings)

    @locked_property
    def _state(self) -> ServerState:
        """The server as its administrator sees it; the class and its tests share it."""
        return self._class_state or ServerState(self._clients.open_admin, service=self.alias)

    def _url(self, place: str) -> str:
        scheme = "rediss" if self.tls else "redis"
        user, password = quote(self.username, safe=""), quote(self.password or "", safe="")
        return f"{scheme}://{user}:{password}@{place}/{self._database}"

    def _password_of(self, user: str) -> str:
        return self.password or "" if user == "default" else self._user_passwords[user]


def _is_setting(item: tuple[object, object]) -> bool:
    name, value = item
    if not isinstance(name, str) or not isinstance(value, (str, int, float)):
        return False
    good = _SETTING.fullmatch(name) is not None and options.is_text(str(value), empty=True)
    with contextlib.suppress(ValueError):  # a quote that does not end
        return good and len(_words(value)) > 0
    return False


def _words(value: str | float) -> list[str]:
    """A setting's value as the words that follow its name in redis.conf."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return shlex.split(str(value)) or [""]
