"""`KafkaHandle`: how clients reach a broker, and what lives and ends with a test."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError
from orchestrator.services import kafka_acls, kafka_users, options
from orchestrator.services.kafka_broker import ADMIN_PORT
from orchestrator.services.kafka_clients import Clients
from orchestrator.services.kafka_fence import Fence
from orchestrator.services.kafka_isolation import Baseline
from orchestrator.services.kafka_security import (
    MECHANISMS,
    SECURITIES,
    Guard,
    Mechanism,
    Security,
    guard_for,
)
from orchestrator.services.once import locked_property
from orchestrator.services.runtime import address, host_names
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    import kafka

    from orchestrator.services.runtime import Runtime

_MECHANISM: Final = "SCRAM-SHA-512"


class KafkaHandle(Service):
    """The life of a handle; subclasses say what a test can do with it, and how it is started."""

    internal_port: ClassVar[int] = 0
    usual_memory: ClassVar[int] = 768 << 20
    denial: ClassVar[re.Pattern[str]] = re.compile("$^")
    """A line of the broker's log that says what it denied: `principal`, `name`, perhaps `kind`."""
    acl_removed: ClassVar[str] = ""
    """A line, as a pattern with a place for a prefix, that says that its ACLs were removed."""

    security: Security = "plaintext"
    mechanism: Mechanism = _MECHANISM
    strict: bool = False

    _test: str = options.private("")
    _owner: KafkaHandle | None = options.private(None)
    _guard: Guard | None = options.private(None)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "security", self.security, SECURITIES)
        options.choice(self, "mechanism", self.mechanism, MECHANISMS)
        options.check_flag(self, "strict", self.strict)
        if self.mechanism != _MECHANISM and not self.security.startswith("sasl_"):
            raise DeclarationError(
                f"{type(self).__name__}(mechanism={self.mechanism!r}) cannot be used with "
                f"security={self.security!r}, where nobody has a password: use 'sasl_plaintext' or "
                "'sasl_ssl'"
            )

    @property
    def guarded(self) -> bool:
        """Whether the broker looks who its clients are, and what they may do."""
        return self.security != "plaintext" or self.strict

    def new_guard(self, runtime: Runtime, *, admin_mechanism: str) -> Guard:
        """A guard for one more container.

        Args:
            runtime: The container.
            admin_mechanism: How the administrator proves his password.
        """
        names = [runtime.engine.host, "localhost", "127.0.0.1", *host_names(runtime.alias)]
        return guard_for(
            self.security,
            self.mechanism,
            hosts=list(dict.fromkeys(names)),
            password=runtime.password,
            admin_mechanism=admin_mechanism,
            open_=not self.strict,
        )

    def prepare(self) -> None:
        """Connect; the tests of the class share the connection that creates their topics."""
        guard = self._guard
        if guard is not None:
            kafka_users.create(self.control, guard, service=self.alias)
        if guard is not None and self.strict:
            acls = kafka_acls.everything_with(self.prefix, principal=guard.principal)
            kafka_acls.create(self.control, acls, service=self.alias)
        self.control.list_topics()  # it answers, and not only listens

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """Nothing that another test has made, and topics and a group of the test's own."""
        self._baseline.restore(self.control, guarded=self._guard is not None)
        handle = self.copy_with(_test=test, _owner=self)
        with handle.fenced(test), contextlib.closing(handle.opened):
            yield handle

    def fenced(self, test: str) -> AbstractContextManager[None]:
        """Keeps a test to its own names, if the declaration is strict."""
        if not self.strict or self._guard is None:
            return contextlib.nullcontext()
        return self.fence.around(self, test=test, principal=self._guard.principal)

    def release(self) -> None:
        """Close the clients that were opened through this handle."""
        if "opened" not in self.__dict__:
            return
        with contextlib.closing(self.opened):
            if self.scope == "process":  # the next class finds nothing of this one
                Baseline(topics=frozenset()).restore(self.control, guarded=False)

    def secrets(self) -> Sequence[str]:
        """Both passwords."""
        return () if self._guard is None else (self._guard.password, self._guard.admin_password)

    @locked_property
    def opened(self) -> Clients:
        """The clients that were opened through this handle."""
        return Clients(self.client_settings, admin=self.admin_settings, secrets=self.secrets())

    @locked_property
    def control(self) -> kafka.KafkaAdminClient:
        """The admin client of the class's handle, for what the service does itself."""
        if self._owner is not None:
            return self._owner.control
        return self.opened.open("KafkaAdminClient", retry_backoff_ms=5)

    @locked_property
    def fence(self) -> Fence:
        """What keeps the tests of the class apart."""
        return Fence() if self._owner is None else self._owner.fence

    @locked_property
    def _baseline(self) -> Baseline:
        return Baseline()

    # Where the broker is

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients on this machine."""
        return address(self.host, self.port)

    @property
    def internal_bootstrap(self) -> str:
        """``alias:port`` for other containers of the class; with TLS, hyphens for underscores."""
        tls = self._guard is not None and self._guard.tls is not None
        name = host_names(self.alias)[-1] if tls else self.alias
        return f"{name}:{self.internal_port}"

    @property
    def url(self) -> str:
        """The same as `bootstrap`."""
        return self.bootstrap

    @property
    def internal_url(self) -> str:
        """The same as `internal_bootstrap`."""
        return self.internal_bootstrap

    @property
    def admin_bootstrap(self) -> str:
        """``host:port`` for the administrator's clients; the same as `bootstrap` if it can be."""
        if self._guard is None:
            return self.bootstrap
        return address(self.host, self.port_of(ADMIN_PORT))

    @property
    def client_settings(self) -> dict[str, Any]:
        """How to reach the broker, as keyword arguments for every client of kafka-python."""
        settings = {} if self._guard is None else self._guard.client_settings()
        return {"bootstrap_servers": self.bootstrap, **settings}

    @property
    def admin_settings(self) -> dict[str, Any]:
        """As `client_settings`, for a client that may do everything."""
        settings = {} if self._guard is None else self._guard.admin_settings()
        return {"bootstrap_servers": self.admin_bootstrap, **settings}

    @property
    def confluent_settings(self) -> dict[str, str]:
        """How to reach the broker, as settings for every client of confluent-kafka."""
        settings = {} if self._guard is None else self._guard.confluent_settings()
        return {"bootstrap.servers": self.bootstrap, **settings}

    @property
    def tls_files(self) -> dict[str, str]:
        """With TLS, the certificates for clients that read them from files: names to paths.

        The names are kafka-python's: ``ssl_cafile``, and ``ssl_certfile`` and ``ssl_keyfile`` where
        the client has a certificate. The files are gone after the test.
        """
        guard = self._guard
        return {} if guard is None or guard.tls is None else guard.tls.write(self.opened.files())

    @property
    def prefix(self) -> str:
        """What the names of this test's topics and groups begin with."""
        return f"{self._test or self.alias}-"
