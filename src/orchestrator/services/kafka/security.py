"""How clients prove to a broker who they are: passwords and certificates made for one class.

A broker that checks anything has one more published listener, which no test uses: the service's own
administration comes by it, as the user ``admin``. So whatever the clients' listeners ask for, or do
not, they give nobody more than a client's rights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.services.options import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.tls import PemFiles, Tls

Security = Literal["plaintext", "sasl_plaintext", "ssl", "sasl_ssl"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
USER: Final = "test"
ADMIN: Final = "admin"


@dataclass(frozen=True, kw_only=True)
class BrokerSecurity:
    """What a broker asks its clients for, and the answers; by default nothing.

    Attributes:
        protocol: How a test's clients connect, in Kafka's word for it.
        mechanism: How they prove their password, with SASL; empty without.
        user: Who they are then.
        admin_mechanism: How the administrator proves that of `ADMIN`.
        tls: The certificates, with TLS.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    user: str = USER
    password: Secret = field(default=Secret(), repr=False)
    admin_mechanism: str = ""
    admin_password: Secret = field(default=Secret(), repr=False)
    tls: Tls | None = None

    def client_settings(self) -> dict[str, Any]:
        """kafka-python's keyword arguments for a test's client."""
        context = {} if self.tls is None else {"ssl_context": self.tls.client_context}
        return {**self._login(), **context}

    def admin_settings(self) -> Mapping[str, Any]:
        """kafka-python's keyword arguments for the administrator."""
        if not self.admin_mechanism:
            return {}
        return _login("SASL_PLAINTEXT", self.admin_mechanism, ADMIN, self.admin_password)

    def confluent_settings(self) -> dict[str, str]:
        """confluent-kafka's settings for a test's client."""
        settings = {
            name.replace("_plain_", "_").replace("_", "."): value
            for name, value in self._login().items()
        }
        if self.tls is not None:
            settings["ssl.ca.pem"] = self.tls.authority.decode()
            if self.tls.client is not None:
                settings["ssl.certificate.pem"] = self.tls.client.certificate.decode()
                settings["ssl.key.pem"] = Secret(self.tls.client.key.decode())
        return settings

    def tls_files(self, files: PemFiles) -> dict[str, str]:
        """Write what a client needs to files: kafka-python's names for them to their paths."""
        if self.tls is None:
            return {}
        paths = {"ssl_cafile": files.write("ca.pem", self.tls.authority)}
        if self.tls.client is not None:
            paths["ssl_certfile"] = files.write("client.pem", self.tls.client.certificate)
            paths["ssl_keyfile"] = files.write("client.key", self.tls.client.key)
        return paths

    def _login(self) -> dict[str, str]:
        if self.mechanism:
            return _login(self.protocol, self.mechanism, self.user, self.password)
        return {} if self.tls is None else {"security_protocol": self.protocol}


def _login(protocol: str, mechanism: str, user: str, password: Secret) -> dict[str, str]:
    return {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
    }
