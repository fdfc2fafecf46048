"""How clients prove to a Kafka broker who they are, and what the broker is told to check it.

A broker that checks anything has two more listeners, which no test uses: one for the service's own
administration, published like the first, and one on the loopback, by which it reaches itself,
like the controller's. They ask for the password of the user ``admin``; those on the loopback only
where a client, too, may come without a name. So whatever the clients' listeners ask for, or do not,
they give nobody more than a client's rights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.services.certificates import create_authority
from orchestrator.services.kafka_broker import ADMIN_PORT, BROKER_PORT, CONTROLLER_PORT, Listener
from orchestrator.services.once import locked_property
from orchestrator.services.secret import Secret

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from orchestrator.services.certificates import Authority, Certificate, PemFiles

Security = Literal["plaintext", "sasl_plaintext", "ssl", "sasl_ssl"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
SECURITIES: Final = ("plaintext", "sasl_plaintext", "ssl", "sasl_ssl")
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
USER: Final = "test"
ADMIN: Final = "admin"

_FOLDER: Final = "/etc/orchestrator"
_JAAS: Final = f"{_FOLDER}/jaas.conf"
_KEY_STORE: Final = f"{_FOLDER}/server.pem"
_TRUST_STORE: Final = f"{_FOLDER}/authority.pem"
_NOBODY: Final = "User:ANONYMOUS"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required"
# A certificate's CN=test becomes the user a password would have proved.
_NAME_OF_CERTIFICATE: Final = r"RULE:^CN=([^,]+)$/$1/"

JVM_OPTION: Final = f"-Djava.security.auth.login.config={_JAAS}"
"""Makes the JVM read the passwords from a file: neither a process list nor `inspect` shows them."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The certificates of one broker.

    Attributes:
        authority: Signed both of the others.
        server: The broker's.
        client: Its clients', unless they prove a password.
    """

    authority: Authority
    server: Certificate
    client: Certificate | None

    @locked_property
    def client_context(self) -> ssl.SSLContext:
        """What Python's clients connect with."""
        return self.authority.client_context(self.client)

    def write(self, files: PemFiles) -> dict[str, str]:
        """Write what a client needs to files: kafka-python's names for them to their paths."""
        paths = {"ssl_cafile": files.write("ca.pem", self.authority.certificate)}
        if self.client is not None:
            paths["ssl_certfile"] = files.write("client.pem", self.client.certificate)
            paths["ssl_keyfile"] = files.write("client.key", self.client.key)
        return paths


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What the listeners of a broker ask for, and the answers.

    Attributes:
        security: How a test's clients connect.
        mechanism: How they prove their password, with SASL.
        password: The password of `USER`, with SASL.
        admin_password: The password of `ADMIN`.
        admin_mechanism: How he proves it.
        tls: The certificates, with TLS.
        open: Whether everybody may do what no ACL is about.
    """

    security: Security
    mechanism: Mechanism
    password: Secret = field(repr=False)
    admin_password: Secret = field(repr=False)
    admin_mechanism: str
    tls: Tls | None
    open: bool

    @property
    def protocol(self) -> str:
        """Kafka's word for the security."""
        return self.security.upper()

    @property
    def principal(self) -> str:
        """What the broker knows a test's clients as."""
        return _NOBODY if self.security == "plaintext" else f"User:{USER}"

    @property
    def scram(self) -> bool:
        """Whether the broker has to be told of the user once it runs."""
        return self._sasl and self.mechanism != "PLAIN"

    @property
    def _nameless(self) -> bool:
        """Whether a client may come without a name; then the broker itself has to have one."""
        return not self._sasl

    @property
    def _sasl(self) -> bool:
        return self.security.startswith("sasl_")

    # What the broker is told

    def clients_listener(self, name: str, *, port: int, advertised: str) -> Listener:
        """A listener for the clients of tests."""
        settings = {"sasl.enabled.mechanisms": self.mechanism} if self._sasl else {}
        return Listener(
            name=name, port=port, advertised=advertised, protocol=self.protocol, settings=settings
        )

    def own_listeners(self, *, admin: str) -> Sequence[Listener]:
        """The listeners for the administrator, for the broker itself, and for its controller.

        Args:
            admin: ``host:port`` that the administrator is told.
        """
        password: Mapping[str, Any] = {
            "protocol": "SASL_PLAINTEXT",
            "settings": {"sasl.enabled.mechanisms": "PLAIN"},
        }
        within: Mapping[str, Any] = {"host": "localhost", **(password if self._nameless else {})}
        itself = f"localhost:{BROKER_PORT}"
        return (
            Listener(name="ADMIN", port=ADMIN_PORT, advertised=admin, **password),
            Listener(name="BROKER", port=BROKER_PORT, advertised=itself, **within),
            Listener(name="CONTROLLER", port=CONTROLLER_PORT, advertised=None, **within),
        )

    def properties(self) -> Mapping[str, str]:
        """The settings of the broker that go with its listeners."""
        mighty = [f"User:{ADMIN}", *([] if self._nameless else [_NOBODY])]
        return {
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(mighty),
            "allow.everyone.if.no.acl.found": str(self.open).lower(),
            **({} if self.tls is None else _tls_properties()),
        }

    def files(self) -> Mapping[str, bytes]:
        """The files in the container that hold passwords and keys."""
        module = _SCRAM if self.scram else f'{_PLAIN} user_{USER}="{self.password}"'
        own = f'{_PLAIN} username="{ADMIN}" password="{self.admin_password}"'
        jaas = f"""\
external.KafkaServer {{ {module}; }};
internal.KafkaServer {{ {module}; }};
KafkaServer {{ {own} user_{ADMIN}="{self.admin_password}"; }};
"""
        tls = self.tls
        stores = (
            {}
            if tls is None
            else {
                _KEY_STORE: tls.server.pem,
                _TRUST_STORE: tls.authority.certificate,
            }
        )
        return {_JAAS: jaas.encode(), **stores}

    # What a client is told

    def client_settings(self) -> Mapping[str, Any]:
        """kafka-python's keyword arguments for a test's client."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self._sasl:
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
        if self._sasl:
            settings |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": USER,
                "sasl.password": self.password,
            }
        if self.tls is not None:
            settings["ssl.ca.pem"] = self.tls.authority.certificate.decode()
            if self.tls.client is not None:
                settings["ssl.certificate.pem"] = self.tls.client.certificate.decode()
                settings["ssl.key.pem"] = Secret(self.tls.client.key.decode())
        return settings


def guard_for(
    security: Security,
    mechanism: Mechanism,
    *,
    hosts: Sequence[str],
    password: str,
    admin_mechanism: str,
    open_: bool,
) -> Guard:
    """A guard with new certificates and a new password for the administrator.

    Args:
        security: How a test's clients connect.
        mechanism: How they prove their password, with SASL.
        hosts: The names under which the broker is reached.
        password: The clients', with SASL.
        admin_mechanism: How the administrator proves his.
        open_: Whether everybody may do what no ACL is about.
    """
    import secrets  # 4 ms that a module which only declares shall not pay

    tls = None
    if security.endswith("ssl"):
        authority = create_authority()
        tls = Tls(
            authority=authority,
            server=authority.server(*hosts),
            client=authority.client(USER) if security == "ssl" else None,
        )
    return Guard(
        security=security,
        mechanism=mechanism,
        password=Secret(password),
        admin_password=Secret(secrets.token_urlsafe(18)),
        admin_mechanism=admin_mechanism,
        tls=tls,
        open=open_,
    )


def _tls_properties() -> Mapping[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": _KEY_STORE,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": _TRUST_STORE,
        # A client may show a certificate of its own, and need not.
        "ssl.client.auth": "requested",
        "ssl.principal.mapping.rules": _NAME_OF_CERTIFICATE,
    }
