"""What a broker is told: the environment contract that the images of Kafka share.

apache/kafka, apache/kafka-native and confluentinc/cp-kafka turn ``KAFKA_A_B_C`` into ``a.b.c`` of
server.properties, and want ``CLUSTER_ID`` to format the storage of a KRaft node with. What they ask
of listeners depends on the listeners' names; ours are called by their place, not their protocol, so
each image leaves their settings to us.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.probes import NotReadyError
from orchestrator.probes.target import connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.probes.target import Target

EXTERNAL_PORT: Final = 9092
INTERNAL_PORT: Final = 19092
CONTROLLER_PORT: Final = 9093
BROKER_PORT: Final = 9094
ADMIN_PORT: Final = 9095
_CLUSTER: Final = "b3JjaGVzdHJhdG9yLTAwMQ"  # 16 bytes in base64, as kafka-storage wants it
# A Metadata request, version 4, for no topic: key, version, correlation id, client id, topics, no.
_METADATA: Final = struct.pack("!hhih2siB", 3, 4, 1, 2, b"id", 0, 0)
_METADATA_HEAD: Final = struct.Struct("!iiii")  # length, correlation id, throttle time, brokers
# An ApiVersions request, version 0: key, version, correlation id, client id.
_VERSIONS: Final = struct.pack("!hhih2s", 18, 0, 1, 2, b"id")
_VERSIONS_HEAD: Final = struct.Struct("!iih")  # length, correlation id, error
_FOUR_MEBIBYTES: Final = str(4 << 20)
_RAN: Final = "Kafka Server started"
_THROWN: Final = re.compile(r"\b(?P<error>\w+(?:Exception|Error): .+)$", re.MULTILINE)

# A broker for tests: one node, small, quick to start and to answer.
_SINGLE_NODE: Final = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.quorum.voters": f"1@localhost:{CONTROLLER_PORT}",
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
    "log.cleaner.dedupe.buffer.size": _FOUR_MEBIBYTES,
}
_JVM: Final = {
    "CLUSTER_ID": _CLUSTER,
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
    # One collector thread and no second compiler: a broker that lives for seconds starts sooner.
    # The official image appends its class-data archive to these.
    "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
}


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One address a broker listens on.

    Attributes:
        name: What the other settings call it.
        port: The container port.
        protocol: Kafka's word for its security, such as ``"SASL_SSL"``.
        advertised: ``host:port`` that its clients are told, if it has clients.
        host: The container's address it listens on; all of them without.
        settings: Settings of this listener alone.
    """

    name: str
    port: int
    advertised: str | None
    protocol: str = "PLAINTEXT"
    host: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


CONTROLLER: Final = Listener(
    name="CONTROLLER", port=CONTROLLER_PORT, advertised=None, host="localhost"
)


def environment(
    listeners: Sequence[Listener], *, between_brokers: str, settings: Mapping[str, str]
) -> Mapping[str, str]:
    """The container's environment.

    Args:
        listeners: All of them, the controller's included.
        between_brokers: The name of the listener the broker reaches itself by.
        settings: More of server.properties, over ours.
    """
    properties = {
        **_SINGLE_NODE,
        "listeners": ",".join(f"{each.name}://{each.host}:{each.port}" for each in listeners),
        "advertised.listeners": ",".join(
            f"{each.name}://{each.advertised}" for each in listeners if each.advertised
        ),
        "listener.security.protocol.map": ",".join(
            f"{each.name}:{each.protocol}" for each in listeners
        ),
        "inter.broker.listener.name": between_brokers,
        **{
            f"listener.name.{each.name.lower()}.{name}": value
            for each in listeners
            for name, value in each.settings.items()
        },
        **settings,
    }
    return {**_JVM, **{_variable(name): value for name, value in properties.items()}}


def lists_a_broker(target: Target) -> None:
    """Ask for metadata: a broker that does not take requests yet is not listed."""
    answer = _ask(target, _METADATA, port=EXTERNAL_PORT)
    if len(answer) < _METADATA_HEAD.size or _METADATA_HEAD.unpack_from(answer)[-1] < 1:
        raise NotReadyError("the broker does not list itself yet")


def answers_the_admin(target: Target) -> None:
    """Ask which requests are known, the only question that needs no password.

    A broker opens the listeners for clients last, when it is registered and takes requests.
    """
    answer = _ask(target, _VERSIONS, port=ADMIN_PORT)
    if len(answer) < _VERSIONS_HEAD.size or _VERSIONS_HEAD.unpack_from(answer)[-1] != 0:
        raise NotReadyError("the broker does not answer yet")


def why_ended(logs: str) -> str:
    """What the log of a broker that never ran says about the reason; empty when nothing.

    A broker that runs logs exceptions that end nothing.
    """
    thrown = None if _RAN in logs else _THROWN.search(logs)
    return thrown["error"].strip() if thrown else ""


def _ask(target: Target, request: bytes, *, port: int) -> bytes:
    with connect(target, port=port) as connection:
        connection.sendall(struct.pack("!i", len(request)) + request)
        return connection.recv(4096)


def _variable(setting: str) -> str:
    """The variable that becomes a setting: Kafka reads _ as a dot, __ as _, ___ as a dash."""
    name = setting.replace("_", "__").replace("-", "___").replace(".", "_")
    return f"KAFKA_{name.upper()}"
