"""`Broker`: what a test does with a server that speaks Kafka's protocol, whichever it is."""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, get_args

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options
from orchestrator.services.hooks import address, host_names
from orchestrator.services.kafka.clients import (
    ADMIN,
    USER,
    BrokerSecurity,
    Clients,
    Mechanism,
    Security,
    kafka_python,
)
from orchestrator.services.kafka.topics import BrokerState
from orchestrator.services.once import locked_property
from orchestrator.services.service import Service
from orchestrator.services.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import kafka
    from kafka.consumer.fetcher import ConsumerRecord

    from orchestrator.probes import Probe
    from orchestrator.services.hooks import Runtime

EXTERNAL_PORT: Final = 9092
INTERNAL_PORT: Final = 19092
ADMIN_PORT: Final = 9095

_MECHANISM: Final = "SCRAM-SHA-512"
# An INFO line ends with the name of its logger.
_ABOUT_TOPICS: Final = re.compile(
    r"\] INFO .*\((?:state\.change\.logger|kafka\.(?:log|cluster|server\.(?:metadata|Replica\w+|"
    r"DefaultAutoTopicCreationManager))|org\.apache\.kafka\.(?:controller|image|metadata|"
    r"storage|coordinator\.common))\b[^()]*\)$"
)
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
# What a broker is asked, and how its answer begins, of which the last number counts: Metadata,
# version 4, of no topic (length, correlation id, throttle time, brokers), and ApiVersions, version
# 0 (length, correlation id, error). Requests have key, version, correlation id, client id.
_METADATA: Final = struct.pack("!hhih2siB", 3, 4, 1, 2, b"id", 0, 0), struct.Struct("!iiii")
_VERSIONS: Final = struct.pack("!hhih2s", 18, 0, 1, 2, b"id"), struct.Struct("!iih")


class Broker(Service):
    """A broker: topics, a group and clients for each test; subclasses say how it is started."""

    client_modules: ClassVar[Sequence[str]] = ("kafka",)
    container_port: ClassVar[int] = EXTERNAL_PORT
    usual_memory: ClassVar[int] = 768 << 20
    _admin_mechanism: ClassVar[str]
    _version_in_log: ClassVar[re.Pattern[str]]
    """Its only group is the version; the protocol tells no more than which requests are known."""

    security: Security = "plaintext"
    mechanism: Mechanism = _MECHANISM

    _test: str = options.private("")
    _part: str = options.private("")  # what a class's names begin with where others use it, too
    _secured: BrokerSecurity = options.private(BrokerSecurity())
    _class_state: BrokerState | None = options.private(None)

    # Its life

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "security", self.security, get_args(Security))
        options.choice(self, "mechanism", self.mechanism, get_args(Mechanism))
        if self.mechanism != _MECHANISM and not self.security.startswith("sasl_"):
            raise DeclarationError(
                f"{type(self).__name__}(mechanism={self.mechanism!r}) cannot be used with "
                f"security={self.security!r}, where nobody has a password: use 'sasl_plaintext' or "
                "'sasl_ssl'"
            )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with the passwords and certificates that its security needs."""
        if self._checks:
            names = [runtime.engine.host, "localhost", "127.0.0.1", *host_names(runtime.alias)]
            client = USER if self.security == "ssl" else None
            changes["_secured"] = BrokerSecurity(
                protocol=self.security.upper(),
                mechanism=self.mechanism if self.security.startswith("sasl_") else "",
                password=options.Secret(runtime.password),
                admin=BrokerSecurity(
                    protocol="SASL_PLAINTEXT",
                    mechanism=self._admin_mechanism,
                    user=ADMIN,
                    password=options.Secret(options.random_password()),
                ),
                tls=Tls.create(names, client=client) if self.security.endswith("ssl") else None,
            )
        return super()._bound(runtime, **changes)

    @property
    def _checks(self) -> bool:
        """Whether the broker checks who its clients are."""
        return self.security != "plaintext"

    def container_ports(self) -> Sequence[str]:
        """The clients' port and, with any security, the administrator's."""
        return [*super().container_ports(), *([f"{ADMIN_PORT}/tcp"] if self._checks else [])]

    def required_modules(self) -> Mapping[str, str | None]:
        """The client that makes topics, and what makes certificates."""
        return {"kafka": "kafka", **({"trustme": "tls"} if self.security.endswith("ssl") else {})}

    def readiness(self) -> Probe:
        """It lists itself as a broker that takes requests."""
        kafka_python()  # takes a while to import, and nothing else is to do while the server starts
        return Call(self._takes_requests)

    def _takes_requests(self, _: Service) -> None:
        """Ask for metadata: a broker that takes no requests yet does not list itself.

        One that checks who asks tells nobody more than which requests it knows; it opens the
        listeners for clients last, when it is registered and takes requests.
        """
        request, head = _VERSIONS if self._checks else _METADATA
        with connect(self, port=ADMIN_PORT if self._checks else EXTERNAL_PORT) as connection:
            connection.sendall(struct.pack("!i", len(request)) + request)
            answer = connection.recv(4096)
        last = head.unpack_from(answer)[-1] if len(answer) >= head.size else -1
        if last != 0 if self._checks else last < 1:
            raise NotReadyError("the broker does not take requests yet")

    def prepare(self) -> None:
        """Connect; the tests of the class share the connection that creates their topics."""
        secured = self._secured
        if secured.mechanism not in ("", "PLAIN"):  # PLAIN's passwords are in a file
            self._state.create_user(USER, secured.mechanism, secured.password)
        self._state.admin.list_topics()  # it answers, and not only listens

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[Self]:
        """A handle whose topics and groups have a prefix of its own; `release` deletes them.

        With SCRAM it has a user of its own, too, whom all other names are refused.
        """
        secured = self._secured
        if self._names_users:
            secured = replace(
                secured, user=name, password=options.Secret(options.random_password())
            )
        handle = self.copy_with(_test=name, _part=name, _secured=secured)
        if self._names_users:
            state = handle._state  # noqa: SLF001 - of our own copy
            state.create_user(name, secured.mechanism, secured.password)
            state.allow(handle.prefix, user=name)
        yield handle

    @property
    def _names_users(self) -> bool:
        """Whether each class can have a user of its own; PLAIN's are in a file."""
        return self._checks and self._secured.mechanism not in ("", "PLAIN")

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """Nothing that another test has made, and topics and a group of the test's own."""
        self._state.restore()
        name = f"{self._part}-{test}" if self._part else test
        handle = self.copy_with(_test=name, _class_state=self._state)
        try:
            yield handle
        finally:
            handle.release()

    def release(self) -> None:
        """Close the clients that were opened through this handle."""
        if "_clients" not in self.__dict__:
            return
        with contextlib.closing(self._clients):
            if self._test == self._part and (self._part or self.scope == "process"):
                self._state.clear()  # the next class finds nothing of this one

    def secrets(self) -> Sequence[str]:
        """Both passwords."""
        admin = self._secured.admin
        return (self._secured.password, admin.password) if admin else ()

    def is_news(self, line: str) -> bool:
        """Not what the broker says of making and deleting topics, as every isolation does."""
        return not _ABOUT_TOPICS.search(line)

    def server_info(self) -> Mapping[str, object]:
        """Version, cluster, broker and where it listens."""
        cluster, broker = self._state.identity()
        version = self._version_in_log.findall(self.logs())[-1:] or ["of an unknown version"]
        return {
            "server": f"{type(self).__name__} {version[0]}",
            "cluster": cluster,
            "broker": broker,
            "listeners": f"{self.security} at {self.bootstrap} and {self.internal_bootstrap}",
        }

    @locked_property
    def _clients(self) -> Clients:
        """The clients that were opened through this handle."""
        security = self._secured.admin or self._secured
        admin = {"bootstrap_servers": self._admin_bootstrap, **security.client_settings()}
        return Clients(self.client_settings, admin=admin, secrets=self.secrets())

    @locked_property
    def _state(self) -> BrokerState:
        """What is on the broker; the class and its tests share it, and so one connection."""
        return self._class_state or BrokerState(
            self._clients.open_admin(retry_backoff_ms=5),
            service=self.alias,
            has_acls=self._checks,
            prefix=f"{self._part}-" if self._part else "",
        )

    # Where it is

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients on this machine."""
        return address(self.host, self.port)

    @property
    def internal_bootstrap(self) -> str:
        """``alias:port`` for other containers of the class; with TLS, hyphens for underscores."""
        name = self.alias if self._secured.tls is None else host_names(self.alias)[-1]
        return f"{name}:{INTERNAL_PORT}"

    url = bootstrap
    internal_url = internal_bootstrap

    @property
    def _admin_bootstrap(self) -> str:
        return address(self.host, self.port_of(ADMIN_PORT)) if self._checks else self.bootstrap

    @property
    def client_settings(self) -> dict[str, Any]:
        """How to reach the broker, as keyword arguments for every client of kafka-python."""
        return {"bootstrap_servers": self.bootstrap, **self._secured.client_settings()}

    @property
    def confluent_settings(self) -> dict[str, str]:
        """How to reach the broker, as settings for every client of confluent-kafka."""
        return {"bootstrap.servers": self.bootstrap, **self._secured.confluent_settings()}

    @property
    def tls_files(self) -> dict[str, str]:
        """With TLS, the certificates for clients that read them from files: names to paths.

        The names are kafka-python's: ``ssl_cafile``, and ``ssl_certfile`` and ``ssl_keyfile`` where
        the client has a certificate. The files are gone after the test.
        """
        return self._secured.tls_files(self._clients.files())

    # What a test does with it

    @property
    def prefix(self) -> str:
        """What the names of this test's topics and groups begin with."""
        return f"{self._test or self.alias}-"

    @property
    def group(self) -> str:
        """This test's consumer group."""
        return f"{self.prefix}group"

    @locked_property
    def admin(self) -> kafka.KafkaAdminClient:
        """A kafka-python admin client; closed after the test. It may do everything.

        With ``scope="run"`` it may do what the test's other clients may.
        """
        return self._clients.open("KafkaAdminClient") if self._part else self._clients.open_admin()

    def topic(
        self, name: str, partitions: int = 1, *, settings: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic of this test and return its full name, which begins with `prefix`.

        It can be written to when this returns, and is gone when the next test begins. Asked for a
        second time in one test, it is the same topic. It may have settings of its own, such as
        ``{"cleanup.policy": "compact"}``.

        Raises:
            DeclarationError: Kafka does not allow the name or the number of partitions.
            ServiceError: The broker refused it.
        """
        if not (isinstance(name, str) and _TOPIC.fullmatch(name)):
            raise DeclarationError(
                f"{name!r} cannot name a topic: use ASCII letters, digits, '.', '_' and '-'"
            )
        topic = f"{self.prefix}{name}"
        if type(partitions) is not int or partitions < 1:
            raise DeclarationError(
                f"{topic!r} cannot have {partitions!r} partitions: expected 1 or more"
            )
        options.check_environment("topic", "settings", {} if settings is None else settings)
        with self._lock.held():
            if topic not in self._created:
                with self._translate_errors(f"the topic {topic!r} could not be made"):
                    self._state.create(topic, partitions=partitions, settings=settings or {})
                self._created[topic] = partitions, dict(settings or {})
        count, its = self._created[topic]
        if partitions != count or (settings is not None and dict(settings) != its):
            raise DeclarationError(
                f"{topic!r} has {count} partitions and settings {its} in this test already, and "
                f"cannot have {partitions} partitions and settings {settings}"
            )
        return topic

    def producer(self, **config: Any) -> kafka.KafkaProducer:
        """A kafka-python producer; closed after the test, if the test did not.

        It waits ten seconds at most for the broker, and twenty until a record is delivered.
        kafka-python's settings in `config` go over ours.
        """
        return self._clients.open("KafkaProducer", **config)

    def consumer(self, *topics: str, **config: Any) -> kafka.KafkaConsumer:
        """A kafka-python consumer in this test's group, from the first record on.

        It commits nothing by itself, and is closed after the test, if the test did not. A loop
        over it ends when nothing came for ten seconds. `topics` are full names, as `topic` returns
        them; kafka-python's settings in `config` go over ours.
        """
        config = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **config}
        return self._clients.open("KafkaConsumer", *topics, **{"group_id": self.group, **config})

    def consume(self, topic: str, count: int = 1, timeout: float = 10.0) -> list[ConsumerRecord]:
        """Read records from a topic; the next call goes on where this one ended.

        Records of a transaction are read when it is committed. What came too late, or was too
        little, is there for the next call. The topic, by its full name, may be created meanwhile.

        Raises:
            MissingDriverError: They are compressed by a codec that is not installed.
            ServiceError: Fewer than `count` came in `timeout` seconds; the message says how many.
        """
        if not isinstance(count, int) or count < 1:
            raise DeclarationError(f"consume(count={count!r}) cannot be used: expected 1 or more")
        _check_timeout("consume", timeout)
        reader = self._clients.reader(topic, self._state.partition_count)
        place = f"of {count} records came from topic {topic!r} in {timeout:g} s"
        with self._translate_errors(f"0 {place}"):
            records = reader.read(count, timeout=timeout)
            if len(records) == count:
                return records
            why = "" if self._state.partition_count(topic) else ": there is no such topic"
        raise ServiceError(f"{self.alias}: {len(records)} {place}{why}", service=self.alias)

    def lag(self, group: str, topic: str) -> int:
        """How many records of a topic a consumer group has not committed yet, now.

        Group and topic are full names, such as `group` and what `topic` returns.

        Raises:
            ServiceError: There is no such topic.
        """
        with self._translate_errors(f"the lag of group {group!r} cannot be told"):
            return self._state.lag(group, topic)

    def wait_for_group(
        self, group: str, topic: str, *, lag: int | None = None, timeout: float = 10.0
    ) -> None:
        """Wait for a consumer group of the code under test, `timeout` seconds at most.

        With `lag`, until it has committed all records but so many. Without, until every partition
        has a consumer: what is produced from then on reaches one. Group and topic are full names.

        Raises:
            ServiceError: It was not so in time; the message says how it was.
        """
        _check_timeout("wait_for_group", timeout)
        if lag is not None and (type(lag) is not int or lag < 0):
            raise DeclarationError(f"wait_for_group(lag={lag!r}) cannot be used: expected a count")
        with self._translate_errors(f"group {group!r} was not waited for"):
            self._state.wait_for_group(group, topic, lag=lag, timeout=timeout)

    @locked_property
    def _created(self) -> dict[str, tuple[int, dict[str, str]]]:
        """This handle's topics: how many partitions each has, and its settings."""
        return {}

    @contextlib.contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Raise ServiceError where kafka-python does not get its answer, saying what failed."""
        try:
            yield
        except kafka_python().errors.KafkaError as error:
            raise ServiceError(f"{self.alias}: {what}: {error}", service=self.alias) from error


def _check_timeout(method: str, timeout: object) -> None:
    if not isinstance(timeout, (int, float)) or not timeout >= 0:  # nan is not
        raise DeclarationError(f"{method}(timeout={timeout!r}) cannot be used: expected seconds")
