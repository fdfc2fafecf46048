"""`Kafka`: a single broker of the class's own; every test gets topics and a group."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call
from orchestrator.services import kafka_broker, options
from orchestrator.services.kafka_broker import Listener
from orchestrator.services.kafka_clients import kafka_python
from orchestrator.services.kafka_service import KafkaService

if TYPE_CHECKING:
    from orchestrator.probes import Probe

_SETTING: Final = re.compile(r"[a-z0-9._-]+")
_OURS: Final = ("listeners", "advertised.listeners", "listener.security.protocol.map")
_VERSION: Final = re.compile(r"Kafka version: (\S+)")


class Kafka(KafkaService):
    """An Apache Kafka broker in KRaft mode: an image of apache/kafka or confluentinc/cp-kafka.

    Attributes:
        security: How clients connect: ``"plaintext"``.
        settings: More of server.properties, such as ``{"message.max.bytes": "2000000"}``.
    """

    lock_entry: ClassVar[str] = "kafka"
    container_port: ClassVar[int] = kafka_broker.EXTERNAL_PORT
    internal_port: ClassVar[int] = kafka_broker.INTERNAL_PORT

    security: Literal["plaintext"] = "plaintext"
    settings: Mapping[str, str] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "security", self.security, ("plaintext",))
        options.check_environment(self, "settings", self.settings)
        for name in self.settings:
            if not _SETTING.fullmatch(name) or name in _OURS:
                raise DeclarationError(
                    f"{type(self).__name__}(settings=…) cannot set {name!r}: expected a name of "
                    f"server.properties other than {', '.join(_OURS)}"
                )

    def server_env(self) -> Mapping[str, str]:
        """Listeners by place: the host port is known before the container is created."""
        listeners = (
            Listener(name="EXTERNAL", port=self.container_port, advertised=self.bootstrap),
            Listener(name="INTERNAL", port=self.internal_port, advertised=self.internal_bootstrap),
            Listener(
                name="CONTROLLER",
                port=kafka_broker.CONTROLLER_PORT,
                advertised=None,
                host="localhost",
            ),
        )
        return kafka_broker.environment(
            listeners, between_brokers="INTERNAL", settings=self.settings
        )

    def readiness(self) -> Probe:
        """It lists itself as a broker that takes requests."""
        kafka_python()  # takes a while to import, and nothing else is to do while the server starts
        return Call(kafka_broker.lists_a_broker)

    def server_info(self) -> Mapping[str, object]:
        """Version, cluster, broker and where it listens."""
        cluster = self.control.describe_cluster()
        return {
            "server": f"Kafka {self._version}",
            "cluster": cluster["cluster_id"],
            "broker": cluster["controller_id"],
            "listeners": f"{self.security} at {self.bootstrap} and {self.internal_bootstrap}",
        }

    @cached_property
    def _version(self) -> str:
        """What the log says; the protocol tells no more than which requests are known."""
        said = _VERSION.findall(self.logs())
        return said[-1] if said else "of an unknown version"
