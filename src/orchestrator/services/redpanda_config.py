"""What a Redpanda broker is told: the two files that its images read, in JSON, which is YAML too.

``redpanda.yaml`` has what is of the node: listeners, addresses, certificates.
``.bootstrap.yaml`` has cluster properties, and is read at the first start only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services import kafka_broker
from orchestrator.services.kafka_security import ADMIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.kafka_security import Guard, Tls

_FOLDER: Final = "/etc/redpanda"
_CERTIFICATE: Final = f"{_FOLDER}/orchestrator.crt"
_KEY: Final = f"{_FOLDER}/orchestrator.key"
_AUTHORITY: Final = f"{_FOLDER}/orchestrator-ca.crt"
_ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - in a container, on a private network
_PORTS: Final = {
    "external": kafka_broker.EXTERNAL_PORT,
    "internal": kafka_broker.INTERNAL_PORT,
    "admin": kafka_broker.ADMIN_PORT,
}
# A broker for tests: it does not wait for more consumers before it serves the first.
_PROPERTIES: Final[Mapping[str, object]] = {
    "auto_create_topics_enabled": True,
    "group_initial_rebalance_delay": 0,
    "group_topic_partitions": 1,
    "transaction_coordinator_partitions": 1,
    "enable_metrics_reporter": False,
}


def environment(guard: Guard) -> Mapping[str, str]:
    """The user that may do everything, by the only way there is to have one from the start."""
    return {"RP_BOOTSTRAP_USER": f"{ADMIN}:{guard.admin_password}:{guard.admin_mechanism}"}


def files(
    places: Mapping[str, str], *, guard: Guard | None, settings: Mapping[str, object]
) -> Mapping[str, bytes]:
    """All files.

    Args:
        places: The name of each listener to the ``host:port`` that its clients are told.
        guard: What they are asked for.
        settings: More cluster properties, over ours.
    """
    properties = {**_PROPERTIES, **({} if guard is None else _guarded(guard)), **settings}
    tls = None if guard is None else guard.tls
    return {
        f"{_FOLDER}/redpanda.yaml": _json({"redpanda": _node(places, guard=guard)}),
        f"{_FOLDER}/.bootstrap.yaml": _json(properties),
        **({} if tls is None else _certificates(tls)),
    }


def _node(places: Mapping[str, str], *, guard: Guard | None) -> Mapping[str, Any]:
    node: dict[str, Any] = {
        "kafka_api": [
            {
                "name": name,
                "address": _ANYWHERE,
                "port": _PORTS[name],
                "authentication_method": _authentication(name, guard=guard),
            }
            for name in places
        ],
        "advertised_kafka_api": [
            {"name": name, "address": host.strip("[]"), "port": int(port)}
            for name, (host, _, port) in (
                (name, told.rpartition(":")) for name, told in places.items()
            )
        ],
    }
    if guard is not None and guard.tls is not None:
        node["kafka_api_tls"] = [
            {
                "name": name,
                "enabled": True,
                "cert_file": _CERTIFICATE,
                "key_file": _KEY,
                "truststore_file": _AUTHORITY,
                "require_client_auth": _authentication(name, guard=guard) == "mtls_identity",
            }
            for name in places
            if name != "admin"
        ]
    return node


def _authentication(listener: str, *, guard: Guard | None) -> str:
    if guard is None:
        return "none"
    if listener == "admin" or guard.security.startswith("sasl_"):
        return "sasl"
    # To ask for a certificate is to demand one here, so only who needs names does.
    return "none" if guard.open else "mtls_identity"


def _guarded(guard: Guard) -> Mapping[str, object]:
    plain = ["PLAIN"] if guard.mechanism == "PLAIN" else []
    return {
        "superusers": [ADMIN],
        "kafka_enable_authorization": not guard.open,
        "sasl_mechanisms": ["SCRAM", *plain],
        "kafka_mtls_principal_mapping_rules": ["RULE:.*CN=([^,]+).*/$1/"],
    }


def _certificates(tls: Tls) -> Mapping[str, bytes]:
    return {
        _CERTIFICATE: tls.server.certificate,
        _KEY: tls.server.key,
        _AUTHORITY: tls.authority.certificate,
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
