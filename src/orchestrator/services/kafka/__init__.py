"""`Kafka`: a single broker of the class's own; every test gets topics and a group.

`Broker` has what a test does with it. Here is what the images are told, by the environment contract
that they share: apache/kafka, apache/kafka-native and confluentinc/cp-kafka turn ``KAFKA_A_B_C``
into ``a.b.c`` of server.properties, and want ``CLUSTER_ID`` to format the storage of a KRaft node
with. What they ask of listeners depends on the listeners' names; ours are called by their place,
not their protocol, so each image leaves their settings to us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from orchestrator.errors import DeclarationError
from orchestrator.services import options
from orchestrator.services.hooks import PART
from orchestrator.services.kafka.broker import ADMIN_PORT, EXTERNAL_PORT, INTERNAL_PORT, Broker
from orchestrator.services.kafka.clients import ADMIN, USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.services.hooks import Runtime
    from orchestrator.services.kafka.clients import BrokerSecurity

_NO_ACL: Final = "allow.everyone.if.no.acl.found"
_CONTROLLER: Final = "localhost:9093"
_BROKER: Final = "localhost:9094"
_PASSWORD: Final = ("SASL_PLAINTEXT", "PLAIN")
_SETTING: Final = re.compile(r"[a-z0-9._-]+")
_OURS: Final = ("listeners", "advertised.listeners", "listener.security.protocol.map")
_RAN: Final = "Kafka Server started"
_THROWN: Final = re.compile(r"\b(?P<error>\w+(?:Exception|Error): .+)$", re.MULTILINE)

_FOLDER: Final = "/etc/orchestrator"
_JAAS: Final = f"{_FOLDER}/jaas.conf"
_KEY_STORE: Final = f"{_FOLDER}/server.pem"
_TRUST_STORE: Final = f"{_FOLDER}/authority.pem"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required"
# Makes the JVM read passwords from a file: neither a process list nor `docker inspect` shows them.
_JVM_OPTION: Final = f"-Djava.security.auth.login.config={_JAAS}"

# How a broker is started: by its image's own command, without the JVM that formats its storage.
# That JVM takes half as long as the broker's own start, to write two small files: who the node is,
# and at which level the features of its release are. The second is only needed by releases that
# have features besides metadata.version; without it, newer groups and transactions are missing.
# What is not known here (another image's command, another release, configuration that the image's
# own command makes something of) is left to that command.

_DATA: Final = "/tmp/kraft-combined-logs"  # noqa: S108 - a path in the container
_PROPERTIES: Final = "ORCHESTRATOR_SERVER_PROPERTIES"  # has the content of that file

_COMMANDS: Final = (["/etc/kafka/docker/run"], ["/etc/confluent/docker/run"])
_JVM_VARIABLES: Final = ("KAFKA_HEAP_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_OPTS")
# Settings that decide what storage there is, and where.
_STORAGE: Final = {"log.dir", "log.dirs", "metadata.log.dir", "node.id", "broker.id"} | {
    "process.roles",
    "controller.quorum.voters",
    "controller.quorum.bootstrap.servers",
}
# What `kafka-storage.sh format` of 4.1.1 writes: metadata.version 27, group.version 1,
# transaction.version 2, eligible.leader.replicas.version 1.
_FEATURES: Final = (
    "AAAAAAAAAAAAAABHAAAAAAImoM66ACAAAAAAAAABohwms7MAAAGiHCazs///////////////////AAAAASoAAAAIAAAA"
    "AxYAAAAAAAAAAAAAAAAAAAAAAAAAAQAAALkAAAAAAkT1TQMAAAAAAAMAAAGiHCaz7gAAAaIcJrPu////////////////"
    "//8AAAAEOgAAAAEuAQwAEW1ldGFkYXRhLnZlcnNpb24AGwAAWgAAAgFOAQwAIWVsaWdpYmxlLmxlYWRlci5yZXBsaWNh"
    "cy52ZXJzaW9uAAEAADQAAAQBKAEMAA5ncm91cC52ZXJzaW9uAAEAAEAAAAYBNAEMABR0cmFuc2FjdGlvbi52ZXJzaW9u"
    "AAIAAAAAAAAAAAAFAAAAPwAAAAACWAXggwAgAAAAAAAAAaIcJrPvAAABohwms+///////////////////wAAAAEaAAAA"
    "CAAAAAQGAAAAAA=="
)
_SCRIPT: Final = f"""\
set -eu
data={_DATA} features=
if [ -x /opt/kafka/bin/kafka-server-start.sh ] && [ -w /opt/kafka/config ]; then
    jars=/opt/kafka/libs tool=
elif tool=$(command -v kafka-storage); then
    jars=/usr/share/java/kafka
else
    exec "$@"
fi
case $(echo $jars/kafka-clients-*.jar) in
*-clients-3.[3-9].* | *-clients-7.[3-9].*) ;;
*-clients-4.1.* | *-clients-8.1.*) features={_FEATURES} ;;
*) exec "$@" ;;
esac
if [ -n "$(ls -A /mnt/shared/config 2>/dev/null)" ]; then exec "$@"; fi
if [ ! -e $data/meta.properties ]; then
    mkdir -p $data
    if [ -n "$features" ]; then echo "$features" | base64 -d >$data/bootstrap.checkpoint; fi
    printf 'version=1\\nnode.id=1\\ncluster.id=%s\\n' "$CLUSTER_ID" >$data/meta.properties
fi
if [ -n "$tool" ]; then
    # This image's command does much besides, and finds the formatting program by PATH.
    instead=/tmp/orchestrator
    mkdir -p $instead
    printf '#!/bin/sh\\n[ "$1" = format ] || exec %s "$@"\\n' "$tool" >$instead/kafka-storage
    chmod +x $instead/kafka-storage
    PATH=$instead:$PATH exec "$@"
fi
cp /etc/kafka/docker/*log4j* /opt/kafka/config/
printf '%s' "${_PROPERTIES}" >/opt/kafka/config/server.properties
classes=/opt/kafka/kafka.jsa
if [ -e $classes ]; then
    KAFKA_JVM_PERFORMANCE_OPTS="$KAFKA_JVM_PERFORMANCE_OPTS -XX:SharedArchiveFile=$classes"
fi
# Not empty, or Kafka's scripts log what the collector does, for which one more JVM is asked for its
# version, and have JMX listen, which takes as long as a tenth of the start.
export KAFKA_GC_LOG_OPTS=' '
if [ -z "${{JMX_PORT-}}" ]; then export KAFKA_JMX_OPTS=' '; fi
exec /opt/kafka/bin/kafka-server-start.sh /opt/kafka/config/server.properties
"""

# A broker for tests: one node, small, quick to start and to answer.
_SINGLE_NODE: Final = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.quorum.voters": f"1@{_CONTROLLER}",
    "controller.listener.names": "CONTROLLER",
    "log.dirs": _DATA,
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # Waits that let a cluster gather more work, and let a test wait for nothing: every new group
    # 3 s, every change of metadata (a topic, an ACL) 25 ms, every step of a group 5 ms.
    "group.initial.rebalance.delay.ms": "0",
    "controller.quorum.append.linger.ms": "0",
    "group.coordinator.append.linger.ms": "0",
    # Compaction looks for work every 15 s by default, and its map of 128 MiB is zeroed at start.
    "log.cleaner.backoff.ms": "250",
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
}
_JVM: Final = {
    "CLUSTER_ID": "b3JjaGVzdHJhdG9yLTAwMQ",  # 16 bytes in base64, as kafka-storage wants it
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
    # One collector thread, no second compiler, no file of counters: a broker that lives for seconds
    # starts sooner. The official image appends its class-data archive to these.
    "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData "
    "-Xshare:auto",
}


class Kafka(Broker):
    """An Apache Kafka broker in KRaft mode: an image of apache/kafka or confluentinc/cp-kafka.

    Give settings by `settings`: with variables of the image's own in `env` (``KAFKA_…``) its own
    command has to start the broker, with one more JVM.

    Attributes:
        security: How clients connect: ``"plaintext"``, ``"sasl_plaintext"``, ``"ssl"`` or
            ``"sasl_ssl"``, with passwords and certificates made for the class. With any but the
            first the broker obeys ACLs; what no ACL is about is allowed. With ``scope="run"`` it
            refuses every name that does not begin with a class's prefix; with SCRAM, with another
            class's.
        mechanism: How they prove their password, with SASL: ``"SCRAM-SHA-512"``,
            ``"SCRAM-SHA-256"`` or ``"PLAIN"``.
        settings: More of server.properties, such as ``{"message.max.bytes": "2000000"}``.
    """

    lock_entry: ClassVar[str] = "kafka"
    _admin_mechanism: ClassVar[str] = "PLAIN"
    _version_in_log: ClassVar[re.Pattern[str]] = re.compile(r"Kafka version: (\S+)")

    settings: Mapping[str, str] = field(default_factory=dict)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        super().check_options()
        options.check_environment(self, "settings", self.settings)
        for name in self.settings:
            if not _SETTING.fullmatch(name) or name in _OURS:
                raise DeclarationError(
                    f"{type(self).__name__}(settings=…) cannot set {name!r}: expected a name of "
                    f"server.properties other than {', '.join(_OURS)}"
                )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle; the JVM is told where passwords are besides what the user tells it."""
        if self._checks:
            given = self.env.get("KAFKA_OPTS", "")
            changes["env"] = {**self.env, "KAFKA_OPTS": f"{_JVM_OPTION} {given}".rstrip()}
        return super()._bound(runtime, **changes)

    @property
    def _checks(self) -> bool:
        """One that a run shares refuses names that are nobody's."""
        return super()._checks or self.scope == "run"

    def prepare(self) -> None:
        """Where others use it, too, allow the names of classes alone."""
        super().prepare()
        if self.scope == "run":
            self._state.allow_asking()
            if not self._names_users:
                self._state.allow(PART)

    def server_capabilities(self) -> Sequence[str]:
        """None: the images run as a plain user from the start."""
        return ()

    def server_command(self) -> Sequence[str] | None:
        """The image's own, where we can without the JVM that formats the storage."""
        image = self.running.engine.images.find(self.running.image_id)
        own = () if image is None else image.command
        return start_command(own, settings=self.settings, env=self.env)

    def server_env(self) -> Mapping[str, str]:
        """Every setting as the variable that the image's own command makes it from."""
        properties = self._properties()
        return {
            **_JVM,
            **{_variable(name): value for name, value in properties.items()},
            _PROPERTIES: "".join(f"{name}={value}\n" for name, value in properties.items()),
        }

    def server_files(self) -> Mapping[str, bytes]:
        """Passwords and keys: in files, so that neither environment nor arguments hold them."""
        secured = self._secured
        if secured.admin is None:
            return {}
        by_file = f'{_PLAIN} user_{USER}="{secured.password}"'
        clients = by_file if secured.mechanism in ("", "PLAIN") else _SCRAM
        password = secured.admin.password
        own = f'{_PLAIN} username="{ADMIN}" password="{password}" user_{ADMIN}="{password}"'
        jaas = f"""\
external.KafkaServer {{ {clients}; }};
internal.KafkaServer {{ {clients}; }};
KafkaServer {{ {own}; }};
"""
        tls = secured.tls
        stores = {} if tls is None else {_KEY_STORE: tls.server.pem, _TRUST_STORE: tls.authority}
        return {_JAAS: jaas.encode(), **stores}

    def why_ended(self) -> str:
        """The exception that the broker did not start for."""
        return why_ended(self.logs())

    def _properties(self) -> Mapping[str, str]:
        """server.properties: the host port is known before the container is created."""
        listeners = self._listeners()
        return {
            **_SINGLE_NODE,
            "listeners": ",".join(f"{each.name}://{each.place}" for each in listeners),
            "advertised.listeners": ",".join(
                f"{each.name}://{each.advertised}" for each in listeners if each.advertised
            ),
            "listener.security.protocol.map": ",".join(
                f"{each.name}:{each.protocol}" for each in listeners
            ),
            "inter.broker.listener.name": "BROKER" if self._checks else "INTERNAL",
            **{
                f"listener.name.{each.name.lower()}.sasl.enabled.mechanisms": each.mechanism
                for each in listeners
                if each.mechanism
            },
            **(_security_properties(self._secured) if self._checks else {}),
            **({_NO_ACL: "false"} if self.scope == "run" else {}),
            **self.settings,
        }

    def _listeners(self) -> Sequence[_Listener]:
        """For the clients of tests and, with any security, for the administrator and the broker.

        The administrator has to give a password. By the last two, on the loopback, the broker
        reaches itself and its controller: without a password, as ANONYMOUS, which is a superuser
        then. Where clients may come without a name it must not be one, so there the broker gives a
        password too.
        """
        clients = self._secured.protocol, self._secured.mechanism
        named = self._secured.mechanism or not self._checks
        within = ("PLAINTEXT", "") if named else _PASSWORD
        listeners = [
            _Listener("EXTERNAL", f":{EXTERNAL_PORT}", self.bootstrap, *clients),
            _Listener("INTERNAL", f":{INTERNAL_PORT}", self.internal_bootstrap, *clients),
            _Listener("CONTROLLER", _CONTROLLER, "", *within),
        ]
        if self._checks:
            admin = _Listener("ADMIN", f":{ADMIN_PORT}", self._admin_bootstrap, *_PASSWORD)
            listeners += [admin, _Listener("BROKER", _BROKER, _BROKER, *within)]
        return listeners


def start_command(
    image: Sequence[str], *, settings: Mapping[str, str], env: Mapping[str, str]
) -> Sequence[str] | None:
    """What to run instead of an image's own command; None for that.

    The user's variables that begin with ``KAFKA_`` are settings too, or more than that, and what
    becomes of them is the image's to know.
    """
    theirs = [name for name in env if name.startswith("KAFKA_") and name not in _JVM_VARIABLES]
    if list(image) not in _COMMANDS or theirs or settings.keys() & _STORAGE:
        return None
    return ["sh", "-c", _SCRIPT, "sh", *image]


class _Listener(NamedTuple):
    """One address a broker listens on, what its clients are told of it, and how they log in."""

    name: str
    place: str
    advertised: str
    protocol: str
    mechanism: str


def why_ended(logs: str) -> str:
    """What the log of a broker that never ran says about the reason; empty when nothing.

    A broker that runs logs exceptions that end nothing.
    """
    thrown = None if _RAN in logs else _THROWN.search(logs)
    return thrown["error"].strip() if thrown else ""


def _security_properties(secured: BrokerSecurity) -> Mapping[str, str]:
    """What else a broker is told that checks who its clients are."""
    superusers = [f"User:{ADMIN}", *(["User:ANONYMOUS"] if secured.mechanism else [])]
    properties = {
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": ";".join(superusers),
        _NO_ACL: "true",
    }
    if secured.tls is None:
        return properties
    return {
        **properties,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": _KEY_STORE,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": _TRUST_STORE,
        # A client may show a certificate of its own, and need not.
        "ssl.client.auth": "requested",
        # A certificate's CN=test becomes the user a password would have proved.
        "ssl.principal.mapping.rules": r"RULE:^CN=([^,]+).*$/$1/",
    }


def _variable(setting: str) -> str:
    """The variable that becomes a setting: Kafka reads _ as a dot, __ as _, ___ as a dash."""
    name = setting.replace("_", "__").replace("-", "___").replace(".", "_")
    return f"KAFKA_{name.upper()}"
