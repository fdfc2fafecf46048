"""TLS for a server under test: trustme's certificates, in the forms that its users want."""

from __future__ import annotations

import atexit
import ipaddress
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator.services.once import OwnStack, driver, locked_property

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key, as PEM; the key as PKCS #8, which Java wants, and open."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Key and certificate in one file, as Kafka and many others want it."""
        return self.key + self.certificate


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The certificates of one server; their authority signed nothing else, and its key is gone."""

    authority: bytes  # PEM, what clients have to trust
    server: Certificate
    client: Certificate | None  # what its clients show, if they have something to show

    @classmethod
    def create(cls, hosts: Iterable[str], *, client: str | None = None) -> Self:
        """Make the certificates of a server that is reached by these host names and addresses.

        Its clients have one too, if it knows them by a name: `client` (``CN=…``).
        """
        authority = driver("trustme", extra="tls").CA()
        shown = authority.issue_cert(client, common_name=client) if client else None
        return cls(
            authority=authority.cert_pem.bytes(),
            server=_for_hosts(authority, hosts),
            client=_certificate(shown) if shown else None,
        )

    def __getstate__(self) -> dict[str, object]:
        """Be pickled without the context, which cannot be."""
        return {name: getattr(self, name) for name in ("authority", "server", "client")}

    @locked_property
    def client_context(self) -> ssl.SSLContext:
        """What Python's clients connect with: it trusts this server only, and checks its name."""
        import ssl

        context = ssl.create_default_context(cadata=self.authority.decode())
        if self.client is not None:
            with PemFiles() as files:  # Python reads a key from a file only
                context.load_cert_chain(files.write("client.pem", self.client.pem))
        return context


class PemFiles(OwnStack):
    """A private folder for clients that read certificates from files only; gone when closed."""

    def write(self, name: str, content: bytes) -> str:
        """Write one file that only this user can read, and return its path."""
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)

    @locked_property
    def _folder(self) -> Path:
        import tempfile  # 3 ms that a module which only declares shall not pay

        # Not a TemporaryDirectory: one of the parent is removed at the exit of a forked child.
        folder = Path(tempfile.mkdtemp(prefix="orchestrator-tls-"))
        atexit.register(self.close)
        self.callback(atexit.unregister, self.close)
        self.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _for_hosts(authority: Any, hosts: Iterable[str]) -> Certificate:
    """A server's certificate: trustme's own, signed again for names that may have underscores."""
    x509 = driver("cryptography.x509", extra="tls")
    issued = _certificate(authority.issue_cert("localhost"))
    old = x509.load_pem_x509_certificate(issued.certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    names = x509.SubjectAlternativeName([_name(x509, host) for host in dict.fromkeys(hosts)])
    for extension in old.extensions:
        value = names if extension.oid == names.oid else extension.value
        builder = builder.add_extension(value, critical=extension.critical)
    form = _serialization()
    key = form.load_pem_private_key(authority.private_key_pem.bytes(), password=None)
    signed = builder.sign(key, old.signature_hash_algorithm)
    return Certificate(certificate=signed.public_bytes(form.Encoding.PEM), key=issued.key)


def _name(x509: Any, host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificate(issued: Any) -> Certificate:
    form = _serialization()
    key = form.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    return Certificate(
        certificate=issued.cert_chain_pems[0].bytes(),
        key=key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()),
    )


def _serialization() -> Any:
    return driver("cryptography.hazmat.primitives.serialization", extra="tls")
