"""`Redpanda`: a broker that speaks Kafka's protocol, without a JVM.

`Broker` has what a test does with it. Here is what its images are told, by two files in JSON, which
is YAML too. ``redpanda.yaml`` has what is of the node: listeners, addresses, certificates.
``.bootstrap.yaml`` has cluster properties, and is read at the first start only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrator.probes.waiting import deadline_of, poll
from orchestrator.services import options
from orchestrator.services.kafka.broker import ADMIN_PORT, EXTERNAL_PORT, INTERNAL_PORT, Broker
from orchestrator.services.kafka.clients import ADMIN, kafka_python

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROPERTY: Final = re.compile(r"[a-z][a-z0-9_]*")
_FOLDER: Final = "/etc/redpanda"
_CERTIFICATE: Final = f"{_FOLDER}/orchestrator.crt"
_KEY: Final = f"{_FOLDER}/orchestrator.key"
_AUTHORITY: Final = f"{_FOLDER}/orchestrator-ca.crt"
# A broker for tests: it does not wait for more consumers before it serves the first.
_PROPERTIES: Final[Mapping[str, object]] = {
    "auto_create_topics_enabled": True,
    "group_initial_rebalance_delay": 0,
    "group_topic_partitions": 1,
    "transaction_coordinator_partitions": 1,
    "enable_metrics_reporter": False,
}


class Redpanda(Broker):
    """A Redpanda broker; tests use it as they use `Kafka`.

    Attributes:
        security: How clients connect, as in `Kafka`; but ACLs are obeyed by none, because Redpanda
            has no way to allow what no ACL is about.
        mechanism: How they prove their password, with SASL, as in `Kafka`.
        settings: Cluster properties, such as ``{"log_segment_ms": 60000}``.
    """

    lock_entry: ClassVar[str] = "redpanda"
    _admin_mechanism: ClassVar[str] = "SCRAM-SHA-256"
    _version_in_log: ClassVar[re.Pattern[str]] = re.compile(r"Redpanda (v\d\S*)")

    settings: Mapping[str, str | int | bool | list[str]] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        super().check_options()
        options.check(
            self,
            "settings",
            isinstance(self.settings, Mapping) and all(map(_is_property, self.settings.items())),
            "a mapping of cluster properties, such as 'log_segment_ms', to text, numbers, truth "
            "values or lists of texts",
        )

    @property
    def _names_users(self) -> bool:
        """It obeys no ACLs."""
        return False

    def server_user(self) -> str:
        """``rpk`` rewrites the file of settings, which belongs to root."""
        return "root:root"

    def server_command(self) -> Sequence[str]:
        """One core, little memory, and none of the checks that are meant for real servers."""
        return ["redpanda", "start", "--mode=dev-container", "--smp=1", "--memory=512M"]

    def server_env(self) -> Mapping[str, str]:
        """The administrator, by the only way there is to have one from the first start on."""
        admin = self._secured.admin
        said = admin and f"{admin.user}:{admin.password}:{admin.mechanism}"
        return {"RP_BOOTSTRAP_USER": said} if said else {}

    def server_files(self) -> Mapping[str, bytes]:
        """The settings of node and cluster, and certificates."""
        properties = dict(_PROPERTIES)
        if self._checks:
            plain = ["PLAIN"] if self.mechanism == "PLAIN" else []
            properties |= {
                "superusers": [ADMIN],
                "sasl_mechanisms": ["SCRAM", *plain],
                "kafka_enable_authorization": False,
            }
        files = {
            f"{_FOLDER}/redpanda.yaml": json.dumps({"redpanda": self._node()}).encode(),
            f"{_FOLDER}/.bootstrap.yaml": json.dumps({**properties, **self.settings}).encode(),
        }
        tls = self._secured.tls
        if tls is not None:
            files |= {_CERTIFICATE: tls.server.certificate, _KEY: tls.server.key}
            files[_AUTHORITY] = tls.authority
        return files

    def _node(self) -> Mapping[str, Any]:
        """Each listener: where it is, what its clients are told, and what they are asked for."""
        places = {
            "external": (EXTERNAL_PORT, self.bootstrap),
            "internal": (INTERNAL_PORT, self.internal_bootstrap),
        }
        asking = ["admin", *(places if self._secured.mechanism else ())]
        encrypted = [] if self._secured.tls is None else [*places]
        if self._checks:
            places["admin"] = ADMIN_PORT, self._admin_bootstrap
        listeners, advertised = [], []
        for name, (port, told) in places.items():
            method = "sasl" if name in asking else "none"
            anywhere = "0.0.0.0"  # noqa: S104 - in a container, on a private network
            listener = {"name": name, "address": anywhere, "port": port}
            listeners.append({**listener, "authentication_method": method})
            host, _, published = told.rpartition(":")
            advertised.append({"name": name, "address": host.strip("[]"), "port": int(published)})
        certificates = {
            "cert_file": _CERTIFICATE,
            "key_file": _KEY,
            "truststore_file": _AUTHORITY,
            "require_client_auth": False,  # to ask for a certificate is to demand one here
        }
        tls = [{"name": name, "enabled": True, **certificates} for name in encrypted]
        return {
            "kafka_api": listeners,
            "advertised_kafka_api": advertised,
            **({"kafka_api_tls": tls} if tls else {}),
        }

    def started(self) -> None:
        """Wait until the administrator can log in: it is created after the broker listens."""
        kafka_error = kafka_python().errors.KafkaError
        poll(
            lambda: self._state is not None,
            timeout=deadline_of(self),
            retry_on=lambda error: isinstance(error, kafka_error),
        )


def _is_property(item: tuple[object, object]) -> bool:
    name, value = item
    good = isinstance(value, (str, int, float)) or (
        isinstance(value, list) and options.is_words(value)
    )
    return isinstance(name, str) and _PROPERTY.fullmatch(name) is not None and good
