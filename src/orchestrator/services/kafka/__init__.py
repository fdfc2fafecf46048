"""`Kafka`: a single broker of the class's own; every test gets topics and a group.

`Broker` has what a test does with it. Here is what the images are told, by the environment contract
that they share: apache/kafka, apache/kafka-native and confluentinc/cp-kafka turn ``KAFKA_A_B_C``
into ``a.b.c`` of server.properties, and want ``CLUSTER_ID`` to format the storage of a KRaft node
with. What they ask of listeners depends on the listeners' names; ours are called by their place,
not their protocol, so each image leaves their settings to us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError
from orchestrator.services import options
from orchestrator.services.kafka.broker import ADMIN_PORT, EXTERNAL_PORT, INTERNAL_PORT, Broker
from orchestrator.services.kafka.security import ADMIN, USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.services.hooks import Runtime
    from orchestrator.services.kafka.security import BrokerSecurity

_CONTROLLER_PORT: Final = 9093
_BROKER_PORT: Final = 9094
_SETTING: Final = re.compile(r"[a-z0-9._-]+")
_OURS: Final = ("listeners", "advertised.listeners", "listener.security.protocol.map")
_RAN: Final = "Kafka Server started"
_THROWN: Final = re.compile(r"\b(?P<error>\w+(?:Exception|Error): .+)$", re.MULTILINE)

_FOLDER: Final = "/etc/orchestrator"
_JAAS: Final = f"{_FOLDER}/jaas.conf"
_KEY_STORE: Final = f"{_FOLDER}/server.pem"
_TRUST_STORE: Final = f"{_FOLDER}/authority.pem"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required"
# Makes the JVM read passwords from a file: neither a process list nor `docker inspect` shows them.
_JVM_OPTION: Final = f"-Djava.security.auth.login.config={_JAAS}"

# A broker for tests: one node, small, quick to start and to answer.
_SINGLE_NODE: Final = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.quorum.voters": f"1@localhost:{_CONTROLLER_PORT}",
    "controller.listener.names": "CONTROLLER",
    "log.dirs": "/tmp/kraft-combined-logs",  # noqa: S108 - a path in the container
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # Waits that let a cluster gather more work, and let a test wait for nothing: every new group
    # 3 s, every change of metadata (a topic, an ACL) 25 ms, every step of a group 5 ms.
    "group.initial.rebalance.delay.ms": "0",
    "controller.quorum.append.linger.ms": "0",
    "group.coordinator.append.linger.ms": "0",
    # Compaction looks for work every 15 s by default, and its map of 128 MiB is zeroed at start.
    "log.cleaner.backoff.ms": "250",
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
}
_JVM: Final = {
    "CLUSTER_ID": "b3JjaGVzdHJhdG9yLTAwMQ",  # 16 bytes in base64, as kafka-storage wants it
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
    # One collector thread and no second compiler: a broker that lives for seconds starts sooner.
    # The official image appends its class-data archive to these.
    "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
}


class Kafka(Broker):
    """An Apache Kafka broker in KRaft mode: an image of apache/kafka or confluentinc/cp-kafka.

    Attributes:
        security: How clients connect: ``"plaintext"``, ``"sasl_plaintext"``, ``"ssl"`` or
            ``"sasl_ssl"``, with passwords and certificates made for the class. With any but the
            first the broker obeys ACLs; what no ACL is about is allowed.
        mechanism: How they prove their password, with SASL: ``"SCRAM-SHA-512"``,
            ``"SCRAM-SHA-256"`` or ``"PLAIN"``.
        settings: More of server.properties, such as ``{"message.max.bytes": "2000000"}``.
    """

    lock_entry: ClassVar[str] = "kafka"
    _admin_mechanism: ClassVar[str] = "PLAIN"
    _version_in_log: ClassVar[re.Pattern[str]] = re.compile(r"Kafka version: (\S+)")

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
        """The handle; the JVM is told where passwords are besides what the user tells it."""
        if self.security != "plaintext":
            given = self.env.get("KAFKA_OPTS", "")
            changes["env"] = {**self.env, "KAFKA_OPTS": f"{_JVM_OPTION} {given}".rstrip()}
        return super()._bound(runtime, **changes)

    def server_capabilities(self) -> Sequence[str]:
        """None: the images run as a plain user from the start."""
        return ()

    def server_env(self) -> Mapping[str, str]:
        """Listeners by place: the host port is known before the container is created."""
        clients = [
            _clients_listener("EXTERNAL", EXTERNAL_PORT, self.bootstrap, self._secured),
            _clients_listener("INTERNAL", INTERNAL_PORT, self.internal_bootstrap, self._secured),
        ]
        if self._secured is None:
            properties = _listening([*clients, _CONTROLLER], between_brokers="INTERNAL")
        else:
            own = _own_listeners(self._secured, admin=self._admin_bootstrap)
            properties = {
                **_listening([*clients, *own], between_brokers="BROKER"),
                **_security_properties(self._secured),
            }
        properties = {**_SINGLE_NODE, **properties, **self.settings}
        return {**_JVM, **{_variable(name): value for name, value in properties.items()}}

    def server_files(self) -> Mapping[str, bytes]:
        """Passwords and keys: in files, so that neither environment nor arguments hold them."""
        return {} if self._secured is None else _security_files(self._secured)

    def why_ended(self) -> str:
        """The exception that the broker did not start for."""
        return why_ended(self.logs())


def why_ended(logs: str) -> str:
    """What the log of a broker that never ran says about the reason; empty when nothing.

    A broker that runs logs exceptions that end nothing.
    """
    thrown = None if _RAN in logs else _THROWN.search(logs)
    return thrown["error"].strip() if thrown else ""


@dataclass(frozen=True, kw_only=True)
class _Listener:
    """One address a broker listens on.

    Attributes:
        name: What the other settings call it.
        port: The container port.
        advertised: ``host:port`` that its clients are told, if it has clients.
        protocol: Kafka's word for its security, such as ``"SASL_SSL"``.
        mechanism: How its clients prove their password, if it asks for one.
        host: The container's address it listens on; all of them without.
    """

    name: str
    port: int
    advertised: str | None
    protocol: str = "PLAINTEXT"
    mechanism: str | None = None
    host: str = ""


_CONTROLLER: Final = _Listener(
    name="CONTROLLER", port=_CONTROLLER_PORT, advertised=None, host="localhost"
)


def _clients_listener(
    name: str, port: int, advertised: str, secured: BrokerSecurity | None
) -> _Listener:
    """A listener for the clients of tests."""
    if secured is None:
        return _Listener(name=name, port=port, advertised=advertised)
    return _Listener(
        name=name,
        port=port,
        advertised=advertised,
        protocol=secured.protocol,
        mechanism=secured.mechanism if secured.sasl else None,
    )


def _own_listeners(secured: BrokerSecurity, *, admin: str) -> Sequence[_Listener]:
    """The listeners for the administrator, for the broker itself, and for its controller.

    The administrator has to give a password. By the other two, on the loopback, the broker reaches
    itself: without a password, as ANONYMOUS, which is a superuser then. Where clients may come
    without a name it must not be one, so there the broker gives a password too.

    Args:
        secured: What the clients' listeners ask for.
        admin: ``host:port`` that the administrator is told.
    """
    password = {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN"}
    within = {"host": "localhost", **({} if secured.sasl else password)}
    itself = f"localhost:{_BROKER_PORT}"
    return (
        _Listener(name="ADMIN", port=ADMIN_PORT, advertised=admin, **password),
        _Listener(name="BROKER", port=_BROKER_PORT, advertised=itself, **within),
        _Listener(name="CONTROLLER", port=_CONTROLLER_PORT, advertised=None, **within),
    )


def _listening(listeners: Sequence[_Listener], *, between_brokers: str) -> Mapping[str, str]:
    """The properties that say where a broker listens.

    Args:
        listeners: All of them, the controller's included.
        between_brokers: The name of the listener the broker reaches itself by.
    """
    return {
        "listeners": ",".join(f"{each.name}://{each.host}:{each.port}" for each in listeners),
        "advertised.listeners": ",".join(
            f"{each.name}://{each.advertised}" for each in listeners if each.advertised
        ),
        "listener.security.protocol.map": ",".join(
            f"{each.name}:{each.protocol}" for each in listeners
        ),
        "inter.broker.listener.name": between_brokers,
        **{
            f"listener.name.{each.name.lower()}.sasl.enabled.mechanisms": each.mechanism
            for each in listeners
            if each.mechanism
        },
    }


def _security_properties(secured: BrokerSecurity) -> Mapping[str, str]:
    """What else a broker is told that checks who its clients are."""
    superusers = [f"User:{ADMIN}", *(["User:ANONYMOUS"] if secured.sasl else [])]
    properties = {
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": ";".join(superusers),
        "allow.everyone.if.no.acl.found": "true",
    }
    if secured.tls is None:
        return properties
    return {
        **properties,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": _KEY_STORE,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": _TRUST_STORE,
        # A client may show a certificate of its own, and need not.
        "ssl.client.auth": "requested",
        # A certificate's CN=test becomes the user a password would have proved.
        "ssl.principal.mapping.rules": r"RULE:^CN=([^,]+).*$/$1/",
    }


def _security_files(secured: BrokerSecurity) -> Mapping[str, bytes]:
    """The files in the container that hold passwords and keys."""
    clients = _SCRAM if secured.scram else f'{_PLAIN} user_{USER}="{secured.password}"'
    own = f'{_PLAIN} username="{ADMIN}" password="{secured.admin_password}"'
    jaas = f"""\
external.KafkaServer {{ {clients}; }};
internal.KafkaServer {{ {clients}; }};
KafkaServer {{ {own} user_{ADMIN}="{secured.admin_password}"; }};
"""
    tls = secured.tls
    stores = {} if tls is None else {_KEY_STORE: tls.server.pem, _TRUST_STORE: tls.authority}
    return {_JAAS: jaas.encode(), **stores}


def _variable(setting: str) -> str:
    """The variable that becomes a setting: Kafka reads _ as a dot, __ as _, ___ as a dash."""
    name = setting.replace("_", "__").replace("-", "___").replace(".", "_")
    return f"KAFKA_{name.upper()}"
