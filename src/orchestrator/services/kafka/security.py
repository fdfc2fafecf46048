"""How clients prove to a broker who they are: passwords and certificates made for one class.

A broker that checks anything has one more published listener, which no test uses: the service's own
administration comes by it, as the user ``admin``. So whatever the clients' listeners ask for, or do
not, they give nobody more than a client's rights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from orchestrator.errors import ServiceError
from orchestrator.probes.waiting import poll
from orchestrator.services.once import driver
from orchestrator.services.options import random_password
from orchestrator.services.secret import Secret
from orchestrator.services.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import kafka

    from orchestrator.services.tls import PemFiles

Security = Literal["plaintext", "sasl_plaintext", "ssl", "sasl_ssl"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
USER: Final = "test"
ADMIN: Final = "admin"

_USER_KNOWN: Final = 10.0
_INTERVAL: Final = 0.002


@dataclass(frozen=True, kw_only=True)
class BrokerSecurity:
    """What a broker asks its clients for, and the answers.

    Attributes:
        security: How a test's clients connect.
        mechanism: How they prove their password, with SASL.
        password: The password of `USER`, with SASL.
        admin_password: The password of `ADMIN`.
        admin_mechanism: How the administrator proves it.
        tls: The certificates, with TLS.
    """

    security: Security
    mechanism: Mechanism
    password: Secret = field(repr=False)
    admin_password: Secret = field(repr=False)
    admin_mechanism: str
    tls: Tls | None

    @classmethod
    def create(
        cls,
        security: Security,
        mechanism: Mechanism,
        *,
        hosts: Iterable[str],
        password: str,
        admin_mechanism: str,
    ) -> Self:
        """Make certificates and a password for the administrator.

        Args:
            security: How a test's clients connect.
            mechanism: How they prove their password, with SASL.
            hosts: The names under which the broker is reached.
            password: The clients', with SASL.
            admin_mechanism: How the administrator proves its own.
        """
        return cls(
            security=security,
            mechanism=mechanism,
            password=Secret(password),
            admin_password=Secret(random_password()),
            admin_mechanism=admin_mechanism,
            tls=Tls.create(hosts, client=USER if security == "ssl" else None)
            if security.endswith("ssl")
            else None,
        )

    @property
    def protocol(self) -> str:
        """Kafka's word for the security."""
        return self.security.upper()

    @property
    def sasl(self) -> bool:
        """Whether clients prove a password."""
        return self.security.startswith("sasl_")

    @property
    def scram(self) -> bool:
        """Whether the broker has to be told of the clients' user once it runs."""
        return self.sasl and self.mechanism != "PLAIN"

    def client_settings(self) -> Mapping[str, Any]:
        """kafka-python's keyword arguments for a test's client."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self.sasl:
            settings |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": USER,
                "sasl_plain_password": self.password,
            }
        if self.tls is not None:
            settings["ssl_context"] = self.tls.client_context
        return settings

    def admin_settings(self) -> Mapping[str, Any]:
        """kafka-python's keyword arguments for the administrator."""
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": self.admin_mechanism,
            "sasl_plain_username": ADMIN,
            "sasl_plain_password": self.admin_password,
        }

    def confluent_settings(self) -> Mapping[str, str]:
        """confluent-kafka's settings for a test's client."""
        settings = {"security.protocol": self.protocol}
        if self.sasl:
            settings |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": USER,
                "sasl.password": self.password,
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

    def create_user(self, admin: kafka.KafkaAdminClient, *, service: str) -> None:
        """Create the clients' user, if its password is not in a file; it can log in then.

        Raises:
            ServiceError: The broker refused, or does not know the user after ten seconds.
        """
        if not self.scram:
            return
        users = driver("kafka.admin", extra="kafka")
        upsertion = users.UserScramCredentialUpsertion(USER, self.mechanism, str(self.password))
        refusal = admin.alter_user_scram_credentials([upsertion])[USER]

        def known() -> bool:
            described = admin.describe_user_scram_credentials([USER])[USER]
            return bool(described["credential_infos"])

        if not refusal and not poll(known, timeout=_USER_KNOWN, interval=_INTERVAL):
            refusal = f"it is not known {_USER_KNOWN:g} s later"
        if refusal:
            raise ServiceError(f"{service} refused the user {USER!r}: {refusal}", service=service)
