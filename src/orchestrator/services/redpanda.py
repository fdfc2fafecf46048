"""`Redpanda`: a broker that speaks Kafka's protocol, without a JVM."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call
from orchestrator.probes.waiting import INTERVAL
from orchestrator.services import kafka_broker, kafka_topics, redpanda_config
from orchestrator.services.kafka_clients import kafka_python
from orchestrator.services.kafka_service import KafkaService
from orchestrator.services.once import locked_property

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.probes import Probe
    from orchestrator.services.runtime import Runtime

_PROPERTY: Final = re.compile(r"[a-z][a-z0-9_]*")
_VERSION: Final = re.compile(r"Redpanda (v\d\S*)")


class Redpanda(KafkaService):
    """A Redpanda broker; tests use it as they use `Kafka`.

    Attributes:
        security: How clients connect, as in `Kafka`.
        mechanism: How they prove their password, with SASL, as in `Kafka`.
        settings: Cluster properties, such as ``{"log_segment_ms": 60000}``.
        strict: As in `Kafka`; with any security but ``"plaintext"``.
    """

    lock_entry: ClassVar[str] = "redpanda"
    container_port: ClassVar[int] = kafka_broker.EXTERNAL_PORT
    internal_port: ClassVar[int] = kafka_broker.INTERNAL_PORT
    # Two spellings, before and after 23.3; it does not say of what kind the resource is.
    denial: ClassVar[re.Pattern[str]] = re.compile(
        r"failed authorization .* principal: \{?type \{?user\}? name \{?(?P<principal>[^},]+)\}?, "
        r"resource: \{(?P<name>.*)\}"
    )

    settings: Mapping[str, str | int | bool | list[str]] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        super().check_options()
        if self.strict and self.security == "plaintext":
            raise DeclarationError(
                "Redpanda(strict=True) cannot be used with security='plaintext': Redpanda has no "
                "ACLs for clients without a name. Use 'sasl_plaintext', 'ssl' or 'sasl_ssl'."
            )
        if not isinstance(self.settings, Mapping) or not all(
            map(_is_property, self.settings.items())
        ):
            raise DeclarationError(
                f"Redpanda(settings={self.settings!r}) cannot be used: expected a mapping of "
                "cluster properties, such as 'log_segment_ms', to text, numbers, truth values or "
                "lists of texts"
            )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with what its security needs."""
        if not self.guarded:
            return super()._bound(runtime, **changes)
        guard = self.new_guard(runtime, admin_mechanism="SCRAM-SHA-256")
        return super()._bound(runtime, _guard=guard, **changes)

    def container_ports(self) -> Sequence[str]:
        """The clients' port and, where it is guarded, the administrator's."""
        admin = [f"{kafka_broker.ADMIN_PORT}/tcp"] if self.guarded else []
        return [*super().container_ports(), *admin]

    def server_user(self) -> str:
        """``rpk`` rewrites the file of settings, which belongs to root."""
        return "root:root"

    def server_command(self) -> Sequence[str]:
        """One core, little memory, and none of the checks that are meant for real servers."""
        return ["redpanda", "start", "--mode=dev-container", "--smp=1", "--memory=512M"]

    def server_env(self) -> Mapping[str, str]:
        """The administrator, whom Redpanda creates at its first start."""
        return {} if self._guard is None else redpanda_config.environment(self._guard)

    def server_files(self) -> Mapping[str, bytes]:
        """The settings of node and cluster, and certificates."""
        places = {"external": self.bootstrap, "internal": self.internal_bootstrap}
        if self._guard is not None:
            places["admin"] = self.admin_bootstrap
        return redpanda_config.files(places, guard=self._guard, settings=self.settings)

    def readiness(self) -> Probe:
        """It lists itself as a broker that takes requests."""
        kafka_python()  # takes a while to import, and nothing else is to do while the server starts
        if self._guard is None:
            return Call(kafka_broker.lists_a_broker)
        return Call(kafka_broker.answers_the_admin)

    def started(self) -> None:
        """Wait until the administrator can log in: he is created after the broker listens."""
        deadline = time.monotonic() + self.startup_timeout
        errors = kafka_python().errors
        while "control" not in self.__dict__:
            try:
                _ = self.control
            except errors.KafkaError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(INTERVAL)

    def server_info(self) -> Mapping[str, object]:
        """Version, cluster, broker and where it listens."""
        cluster, broker = kafka_topics.identity(self.control)
        return {
            "server": f"Redpanda {self._version}",
            "cluster": cluster,
            "broker": broker,
            "listeners": f"{self.security} at {self.bootstrap} and {self.internal_bootstrap}",
        }

    @locked_property
    def _version(self) -> str:
        """What the log says first."""
        said = _VERSION.search(self.logs())
        return said[1] if said else "of an unknown version"


def _is_property(item: tuple[object, object]) -> bool:
    name, value = item
    single = isinstance(value, (str, int, float))
    several = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(name, str) and _PROPERTY.fullmatch(name) is not None and (single or several)
