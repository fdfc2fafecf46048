"""`Kafka`: a single broker of the class's own; every test gets topics and a group."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call
from orchestrator.services import kafka_broker, kafka_topics, options
from orchestrator.services.kafka_broker import Listener
from orchestrator.services.kafka_clients import kafka_python
from orchestrator.services.kafka_security import JVM_OPTION
from orchestrator.services.kafka_service import KafkaService
from orchestrator.services.once import locked_property

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.probes import Probe
    from orchestrator.services.runtime import Runtime

_SETTING: Final = re.compile(r"[a-z0-9._-]+")
_OURS: Final = ("listeners", "advertised.listeners", "listener.security.protocol.map")
_VERSION: Final = re.compile(r"Kafka version: (\S+)")


class Kafka(KafkaService):
    """An Apache Kafka broker in KRaft mode: an image of apache/kafka or confluentinc/cp-kafka.

    Attributes:
        security: How clients connect: ``"plaintext"``, ``"sasl_plaintext"``, ``"ssl"`` or
            ``"sasl_ssl"``, with passwords and certificates made for the class.
        mechanism: How they prove their password, with SASL: ``"SCRAM-SHA-512"``,
            ``"SCRAM-SHA-256"`` or ``"PLAIN"``.
        settings: More of server.properties, such as ``{"message.max.bytes": "2000000"}``.
        strict: Lets each test use only names that begin with its `prefix`, by ACLs; one that
            touches another topic, group or transactional id fails with an error that names both.
    """

    lock_entry: ClassVar[str] = "kafka"
    client_modules: ClassVar[Sequence[str]] = ("kafka",)
    container_port: ClassVar[int] = kafka_broker.EXTERNAL_PORT
    internal_port: ClassVar[int] = kafka_broker.INTERNAL_PORT
    denial: ClassVar[re.Pattern[str]] = re.compile(
        r"Principal = (?P<principal>\S+) is Denied operation = .* "
        r"resource = (?P<kind>Topic|Group|TransactionalId):LITERAL:(?P<name>.*) for request ="
    )
    acl_removed: ClassVar[str] = "RemoveAccessControlEntryRecord .*{}"

    settings: Mapping[str, str] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        super().check_options()
        options.check_environment(self, "settings", self.settings)
        for name in self.settings:
            if not _SETTING.fullmatch(name) or name in _OURS:
                raise DeclarationError(
                    f"{type(self).__name__}(settings=…) cannot set {name!r}: expected a name of "
                    f"server.properties other than {', '.join(_OURS)}"
                )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with what its security needs."""
        if not self.guarded:
            return super()._bound(runtime, **changes)
        given = self.env.get("KAFKA_OPTS", "")
        env = {
            "KAFKA_LOG4J_LOGGERS": "kafka.authorizer.logger=INFO",  # what it denies, for `strict`
            **self.env,
            "KAFKA_OPTS": f"{JVM_OPTION} {given}".rstrip(),
        }
        guard = self.new_guard(runtime, admin_mechanism="PLAIN")
        return super()._bound(runtime, _guard=guard, env=env, **changes)

    def container_ports(self) -> Sequence[str]:
        """The clients' port and, where it is guarded, the administrator's."""
        admin = [f"{kafka_broker.ADMIN_PORT}/tcp"] if self.guarded else []
        return [*super().container_ports(), *admin]

    def server_capabilities(self) -> Sequence[str]:
        """None: the images run as a plain user from the start."""
        return ()

    def server_env(self) -> Mapping[str, str]:
        """Listeners by place: the host port is known before the container is created."""
        guard = self._guard
        places = (
            ("EXTERNAL", self.container_port, self.bootstrap),
            ("INTERNAL", self.internal_port, self.internal_bootstrap),
        )
        if guard is None:
            plain = [Listener(name=n, port=port, advertised=a) for n, port, a in places]
            return kafka_broker.environment(
                [*plain, kafka_broker.CONTROLLER],
                between_brokers="INTERNAL",
                settings=self.settings,
            )
        listeners = [guard.clients_listener(n, port=port, advertised=a) for n, port, a in places]
        return kafka_broker.environment(
            [*listeners, *guard.own_listeners(admin=self.admin_bootstrap)],
            between_brokers="BROKER",
            settings={**guard.properties(), **self.settings},
        )

    def server_files(self) -> Mapping[str, bytes]:
        """Passwords and keys: in files, so that neither environment nor arguments hold them."""
        return {} if self._guard is None else self._guard.files()

    def readiness(self) -> Probe:
        """It lists itself as a broker that takes requests."""
        kafka_python()  # takes a while to import, and nothing else is to do while the server starts
        if self._guard is None:
            return Call(kafka_broker.lists_a_broker)
        return Call(kafka_broker.answers_the_admin)

    def why_ended(self) -> str:
        """The exception that the broker did not start for."""
        return kafka_broker.why_ended(self.logs())

    def server_info(self) -> Mapping[str, object]:
        """Version, cluster, broker and where it listens."""
        cluster, broker = kafka_topics.identity(self.control)
        return {
            "server": f"Kafka {self._version}",
            "cluster": cluster,
            "broker": broker,
            "listeners": f"{self.security} at {self.bootstrap} and {self.internal_bootstrap}",
        }

    @locked_property
    def _version(self) -> str:
        """What the log says; the protocol tells no more than which requests are known."""
        said = _VERSION.findall(self.logs())
        return said[-1] if said else "of an unknown version"
