"""Certificates made on the fly, for servers that are tested with TLS.

An `Authority` lives as long as one service and signs for nobody else; its key never leaves the
process. The `cryptography` library does the work; it loads when the first authority is made.
"""

from __future__ import annotations

import atexit
import ipaddress
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services.drivers import driver
from orchestrator.services.once import OwnStack

if TYPE_CHECKING:
    import ssl

_ORGANISATION: Final = "orchestrator"
_CLOCK_SKEW: Final = timedelta(days=1)
_LIFETIME: Final = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key.

    Attributes:
        certificate: PEM.
        key: PEM, PKCS #8, without a password.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Key and certificate in one file, as Kafka and many others want it."""
        return self.key + self.certificate


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Signs the certificates of one service; `create_authority` makes one.

    Attributes:
        certificate: PEM, what a client has to trust.
    """

    certificate: bytes
    _issuer: Any = field(repr=False)
    _key: Any = field(repr=False)

    def server(self, *hosts: str) -> Certificate:
        """A certificate for a server that is reached under these host names and addresses."""
        x509 = _x509()
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(_ORGANISATION, usage="SERVER_AUTH", names=names)

    def client(self, name: str) -> Certificate:
        """A certificate for a client; servers know it as ``CN=name`` (64 characters at most)."""
        return self._issue(name, usage="CLIENT_AUTH", names=None)

    def client_context(self, certificate: Certificate | None = None) -> ssl.SSLContext:
        """What a client connects with: it trusts this authority only, and checks host names.

        Args:
            certificate: What it presents to servers that ask.
        """
        import ssl

        context = ssl.create_default_context(cadata=self.certificate.decode())
        if certificate is not None:
            with PemFiles() as files:  # Python reads a key from a file only
                context.load_cert_chain(files.write("client.pem", certificate.pem))
        return context

    def _issue(self, common_name: str, *, usage: str, names: Any) -> Certificate:
        x509 = _x509()
        key = _new_key()
        purpose = getattr(x509.oid.ExtendedKeyUsageOID, usage)
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(common_name, key=key, issuer=self._issuer)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer_id, critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return Certificate(certificate=_signed(builder, self._key), key=_key_pem(key))


def create_authority() -> Authority:
    """Make a certificate authority of one's own; it costs a millisecond.

    Raises:
        MissingDriverError: `cryptography` is not installed.
    """
    x509 = _x509()
    key = _new_key()
    name = _name(f"{_ORGANISATION} throwaway authority")
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        _builder(f"{_ORGANISATION} throwaway authority", key=key, issuer=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    )
    return Authority(certificate=_signed(builder, key), _issuer=name, _key=key)


class PemFiles(OwnStack):
    """A private folder for clients that read certificates from files only; gone when closed."""

    def write(self, name: str, content: bytes) -> str:
        """Write one file that only this user can read, and return its path."""
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)

    @property
    def _folder(self) -> Path:
        if "_path" not in vars(self):
            import tempfile  # 3 ms that a module which only declares shall not pay

            # Not a TemporaryDirectory: one of the parent is removed at the exit of a forked child.
            self._path = Path(tempfile.mkdtemp(prefix=f"{_ORGANISATION}-tls-"))
            atexit.register(self.close)
            self.callback(atexit.unregister, self.close)
            self.callback(shutil.rmtree, self._path, ignore_errors=True)
        return self._path


def _x509() -> Any:
    return driver("cryptography.x509", extra="tls")


def _builder(common_name: str, *, key: Any, issuer: Any) -> Any:
    x509 = _x509()
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(identifier, critical=False)
    )


def _signed(builder: Any, key: Any) -> bytes:
    primitives = "cryptography.hazmat.primitives"
    sha256 = driver(f"{primitives}.hashes", extra="tls").SHA256()
    serialization = driver(f"{primitives}.serialization", extra="tls")
    pem: bytes = builder.sign(key, sha256).public_bytes(serialization.Encoding.PEM)
    return pem


def _new_key() -> Any:
    """A P-256 key: every TLS stack has the curve, and it is made in no time, unlike RSA's."""
    curves = driver("cryptography.hazmat.primitives.asymmetric.ec", extra="tls")
    return curves.generate_private_key(curves.SECP256R1())


def _key_pem(key: Any) -> bytes:
    form = driver("cryptography.hazmat.primitives.serialization", extra="tls")
    pem: bytes = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem


def _name(common_name: str) -> Any:
    x509 = _x509()
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> Any:
    x509 = _x509()
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
