"""How a broker is started: by its image's own command, without the JVM that formats its storage.

That JVM takes half as long as the broker's own start, to write two small files: who the node is,
and at which level the features of its release are. The second is only needed by releases that have
features besides ``metadata.version``; without it, newer groups and transactions are missing.

What is not known here (another image's command, another release, configuration that the image's
own command makes something of) is left to that command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DATA: Final = "/tmp/kraft-combined-logs"  # noqa: S108 - a path in the container
PROPERTIES: Final = "ORCHESTRATOR_SERVER_PROPERTIES"
"""The variable that has the content of server.properties."""

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
data={DATA} features=
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
printf '%s' "${PROPERTIES}" >/opt/kafka/config/server.properties
classes=/opt/kafka/kafka.jsa
if [ -e $classes ]; then
    KAFKA_JVM_PERFORMANCE_OPTS="$KAFKA_JVM_PERFORMANCE_OPTS -XX:SharedArchiveFile=$classes"
fi
exec /opt/kafka/bin/kafka-server-start.sh /opt/kafka/config/server.properties
"""


def command(
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
