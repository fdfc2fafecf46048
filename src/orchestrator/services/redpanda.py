"""`Redpanda`: a broker that speaks Kafka's protocol, without a JVM."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError
from orchestrator.probes import INTERVAL, Call
from orchestrator.services import kafka_broker, options, redpanda_config
from orchestrator.services.kafka_clients import kafka_python
from orchestrator.services.kafka_service import KafkaService

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

    settings: Mapping[str, str | int | bool | list[str]] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        super().check_options()
        if self.strict and self.security == "plaintext":
            raise DeclarationError(
                "Redpanda(strict=True) cannot be used with security='plaintext': Redpanda has no "
                "ACLs for clients without a name. Use 'sasl_plaintext', 'ssl' or 'sasl_ssl'."
            )
        options.check_properties(self, "settings", self.settings, name=_PROPERTY)

    def bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with what its security needs."""
        if not self.guarded:
            return super().bound(runtime, **changes)
        guard = self.new_guard(runtime, admin_mechanism="SCRAM-SHA-256")
        return super().bound(runtime, _guard=guard, **changes)

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
        """Wait until the administrator can log in: he is created when the broker listens already."""
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
        cluster = self.control.describe_cluster()
        return {
            "server": f"Redpanda {self._version}",
            "cluster": cluster["cluster_id"],
            "broker": cluster["controller_id"],
            "listeners": f"{self.security} at {self.bootstrap} and {self.internal_bootstrap}",
        }

    @cached_property
    def _version(self) -> str:
        """What the log says first."""
        said = _VERSION.search(self.logs())
        return said[1] if said else "of an unknown version"
