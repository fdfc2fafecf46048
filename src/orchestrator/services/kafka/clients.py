"""The kafka-python clients of one handle, and how they prove who they are."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.errors import MissingDriverError
from orchestrator.services.once import OwnStack, driver
from orchestrator.services.options import Secret, masked
from orchestrator.services.tls import PemFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    import kafka
    from kafka.consumer.fetcher import ConsumerRecord

    from orchestrator.services.tls import Tls

Security = Literal["plaintext", "sasl_plaintext", "ssl", "sasl_ssl"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
USER: Final = "test"
ADMIN: Final = "admin"
_POLL: Final = 0.1
_TIMEOUT: Final = 10_000  # milliseconds; nothing a test's client does may take for ever
_CLOSE: Final = 5.0  # seconds, for a client that a test left open, when its broker does not answer
# Of each kind of client: what it is made with, and what its `close` is given.
_KINDS: Final[Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]] = {
    "KafkaProducer": (
        {"max_block_ms": _TIMEOUT, "delivery_timeout_ms": 2 * _TIMEOUT},
        {"timeout": _CLOSE},
    ),
    "KafkaConsumer": ({"consumer_timeout_ms": _TIMEOUT}, {"timeout_ms": int(_CLOSE * 1000)}),
    # It refuses what is over this number instead of letting it wait, and threads share one client.
    "KafkaAdminClient": ({"max_in_flight_requests_per_connection": 1000}, {}),
}
_ALL_KINDS: Final = {
    "request_timeout_ms": _TIMEOUT,
    "bootstrap_timeout_ms": _TIMEOUT,
    "reconnect_backoff_max_ms": 250,
}
_METADATA_PAUSE: Final = 10  # milliseconds
_LOG_REQUESTS: Final = ("kafka.net.connection", "kafka.protocol.parser")
_CLOSING: Final = "orchestrator"
_NO_CODEC: Final = "compression codec not found"


@dataclass(frozen=True, kw_only=True)
class BrokerSecurity:
    """What a broker asks its clients for, and the answers, made for one class; by default nothing.

    A broker that checks anything has one more published listener, which no test uses: the service's
    own administration comes by it, as `admin`. So whatever the clients' listeners ask for, or do
    not, they give nobody more than a client's rights. Without SASL, `mechanism` is empty.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    user: str = USER
    password: Secret = field(default=Secret(), repr=False)
    tls: Tls | None = None
    admin: BrokerSecurity | None = None

    def client_settings(self) -> dict[str, Any]:
        """kafka-python's keyword arguments."""
        context = {} if self.tls is None else {"ssl_context": self.tls.client_context}
        return {**self._login(), **context}

    def confluent_settings(self) -> dict[str, str]:
        """confluent-kafka's settings."""
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
        if not self.mechanism:
            return {} if self.tls is None else {"security_protocol": self.protocol}
        return {
            "security_protocol": self.protocol,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.user,
            "sasl_plain_password": self.password,
        }


def kafka_python() -> ModuleType:
    """The module `kafka`; without kafka-python a MissingDriverError."""
    return driver("kafka", extra="kafka")


class Clients:
    """The clients that one handle opened; safe to use from several threads.

    `settings` and, for the administrator, `admin` are kafka-python's keyword arguments to reach the
    broker; `secrets` is what no client may log.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, admin: Mapping[str, Any], secrets: Sequence[str]
    ) -> None:
        self._settings, self._admin = settings, admin
        self._open = OwnStack()
        if secrets:
            self._open.enter_context(_secrets_masked(secrets))
        self._readers: dict[str, Reader] = {}
        self._lock = threading.Lock()

    def open_admin(self, **config: Any) -> kafka.KafkaAdminClient:
        """Open a client of the administrator's, who may do everything."""
        return self.open("KafkaAdminClient", **{**self._admin, **config})

    def open(self, kind: str, *arguments: Any, **config: Any) -> Any:
        """Open a client of kafka-python, by its class's name; `config` goes over our settings.

        Raises:
            MissingDriverError: What ``compression_type`` names is not installed.
        """
        settings, closing = _KINDS[kind]
        ours = {**self._settings, **_ALL_KINDS, **settings, **_closing_sockets()}
        client = _construct(getattr(kafka_python(), kind), arguments, {**ours, **config})
        with self._lock:
            self._open.callback(client.close, **closing)
        _pause_less(client, config.get("retry_backoff_ms", _METADATA_PAUSE))
        return client

    def files(self) -> PemFiles:
        """A folder for certificates that `close` will remove."""
        with self._lock:
            return self._open.enter_context(PemFiles())

    def reader(self, topic: str, partitions: Callable[[str], int]) -> Reader:
        """The reader of a topic, the same every time."""
        with self._lock:
            return self._readers.setdefault(topic, Reader(self, topic, partitions))

    def close(self) -> None:
        """Close all that are still open, the last one first."""
        with self._lock:
            self._readers.clear()
            closing = self._open.pop_all()
        closing.close()


def _construct(kind: Any, arguments: Sequence[Any], config: Mapping[str, Any]) -> Any:
    """Make a client; one that does not reach its broker leaves no thread and no socket behind.

    kafka-python does leave them, so we keep hold of the part that has them.
    """
    make = config.get("kafka_client", kind.DEFAULT_CONFIG["kafka_client"])
    network: list[Any] = []

    def keep(**settings: Any) -> Any:
        network.append(make(**settings))
        return network[0]

    try:
        return kind(*arguments, **{**config, "kafka_client": keep})
    except BaseException as error:
        for each in network:
            each.close()
        if missing := _missing_codec(error):
            raise missing from error
        raise


def _missing_codec(error: BaseException) -> MissingDriverError | None:
    """What to install, where kafka-python's error is that it lacks a codec."""
    if _NO_CODEC not in str(error):
        return None
    return MissingDriverError(
        f"kafka-python: {error}. Run: pip install 'unittest-orchestrator[kafka]'"
    )


@functools.cache
def _closing_sockets() -> Mapping[str, str]:
    """The setting by which a client closes every socket that it could not connect.

    kafka-python 3.0.12 leaves those to the garbage collector, which warns of each: a broker that
    is gone costs several a second. What it asks for a socket it chooses by the scheme of its proxy.
    """
    try:
        plain = driver("kafka.net.inet", extra="kafka").KafkaNetSocket
    except (ImportError, AttributeError):
        return {}

    class ClosingSocket(plain):  # type: ignore[misc,valid-type]
        SCHEMES = (_CLOSING,)

        async def sock_connect(self, net: Any, sock: Any, *address: Any, **options: Any) -> Any:
            try:
                return await super().sock_connect(net, sock, *address, **options)
            except BaseException:  # also where the client is closed meanwhile
                sock.close()
                raise

    return {"proxy_url": f"{_CLOSING}://"}


def _pause_less(client: Any, milliseconds: int) -> None:
    """Let a new client ask for its topic's metadata soon after it asked for the broker's.

    kafka-python keeps 100 ms between two such questions, so that the first send and the first poll
    of every client wait for no reason. Its setting for that, ``retry_backoff_ms``, does not reach
    the place (3.0.12: `KafkaConnectionManager` does not hand it on to `ClusterMetadata`).
    """
    metadata = getattr(client, "_metadata", None) or getattr(client, "_cluster", None)
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        metadata.config["retry_backoff_ms"] = milliseconds  # type: ignore[union-attr]


@contextlib.contextmanager
def _secrets_masked(secrets: Sequence[str]) -> Iterator[None]:
    """Keep secrets out of what kafka-python logs of its requests, at the level DEBUG."""

    def mask(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        shown = masked(said, secrets)
        if shown != said:
            record.msg, record.args = shown, ()
        return True

    loggers = [logging.getLogger(name) for name in _LOG_REQUESTS]
    for logger in loggers:
        logger.addFilter(mask)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(mask)


class Reader:
    """Reads a topic once, from its first record on.

    It has no group, as joining one takes time, and shows what a transaction committed only.
    `partitions` says how many a topic has; 0 while it does not exist.
    """

    def __init__(self, clients: Clients, topic: str, partitions: Callable[[str], int]) -> None:
        self._clients = clients
        self._topic = topic
        self._partitions = partitions
        self._consumer: kafka.KafkaConsumer | None = None
        self._unread: list[ConsumerRecord] = []
        self._lacks: MissingDriverError | None = None
        self._lock = threading.Lock()

    def read(self, count: int, *, timeout: float) -> list[ConsumerRecord]:
        """Up to so many records: fewer when the time is over; they are read again then.

        Raises:
            MissingDriverError: A codec is missing. The consumer is not asked again: it would search
                for the records that it could not read for ever (kafka-python 3.0.12).
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while (missing := count - len(self._unread)) > 0:
                left = deadline - time.monotonic()
                if left <= 0:
                    return list(self._unread)
                consumer = self._consumer or self._open(left)
                pause = min(left, _POLL)
                if not consumer.assignment() and not self._assign(consumer):
                    time.sleep(pause / 10)
                    continue
                if self._lacks:
                    raise self._lacks
                try:
                    polled = consumer.poll(max(1, int(pause * 1000)), max_records=missing)
                except kafka_python().errors.UnsupportedCodecError as error:
                    self._lacks = _missing_codec(error)
                    raise (self._lacks or error) from error
                self._unread.extend(record for batch in polled.values() for record in batch)
            records, self._unread = self._unread[:count], self._unread[count:]
            return records

    def _open(self, left: float) -> kafka.KafkaConsumer:
        self._consumer = self._clients.open(
            "KafkaConsumer",
            group_id=None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            bootstrap_timeout_ms=max(1, int(left * 1000)),
        )
        return self._consumer

    def _assign(self, consumer: kafka.KafkaConsumer) -> bool:
        """Read all partitions, if there are any; subscribing would create a missing topic."""
        partitions = self._partitions(self._topic)
        topic_partition = kafka_python().TopicPartition
        consumer.assign([topic_partition(self._topic, number) for number in range(partitions)])
        return partitions > 0
