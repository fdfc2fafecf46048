"""The floor: raw `docker run` of the same images, tuned as orchestrator tunes them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.benchmarks.machine import free_port, image, label, remove, run
from tests.benchmarks.protocol import first_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PORTS: Final = {"postgres": 5432, "redis": 6379, "kafka": 9092}
_OPTIONS: Final[Mapping[str, Sequence[str]]] = {
    "postgres": (
        "--env=POSTGRES_PASSWORD=floor",
        "--env=POSTGRES_INITDB_ARGS=--no-sync",
        "--tmpfs=/var/lib/postgresql/data",
    ),
    "redis": (),
    "kafka": (
        "--env=KAFKA_HEAP_OPTS=-Xms128m -Xmx512m",
        "--env=KAFKA_JVM_PERFORMANCE_OPTS=-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
        "--env=KAFKA_NODE_ID=1",
        "--env=KAFKA_PROCESS_ROLES=broker,controller",
        "--env=KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:9093",
        "--env=KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER",
        "--env=KAFKA_CONTROLLER_QUORUM_APPEND_LINGER_MS=0",
        "--env=KAFKA_LOG_CLEANER_DEDUPE_BUFFER_SIZE=4194304",
        "--env=KAFKA_LISTENERS=PLAINTEXT://:9092,CONTROLLER://localhost:9093",
        "--env=KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    ),
}
_ARGUMENTS: Final[Mapping[str, Sequence[str]]] = {
    "postgres": ("-cfsync=off", "-cfull_page_writes=off", "-cmin_wal_size=32MB"),
    "redis": ("--save", "", "--requirepass", "floor"),
    "kafka": (),
}


def run_together(services: Sequence[str]) -> Mapping[str, float]:
    """Start services side by side, wait for each one's first answer, remove them all."""
    ports = [free_port() for _ in services]
    commands = [_command(service, port) for service, port in zip(services, ports, strict=True)]
    began = time.monotonic()
    with ThreadPoolExecutor(len(services)) as pool:
        containers = list(pool.map(lambda command: run(*command), commands))
        ready = max(pool.map(first_answer, services, ports)) - began
    ending = time.monotonic()
    remove(containers)
    return {"ready": ready, "teardown": time.monotonic() - ending}


def run_classes(services: Sequence[str], *, count: int, jobs: int) -> Mapping[str, float]:
    """Start and remove services so many times, so many sets at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda _: run_together(services), range(count)))
    return {"seconds": time.monotonic() - began}


def _command(service: str, port: int) -> Sequence[str]:
    publish = f"--publish=127.0.0.1:{port}:{_PORTS[service]}"
    advertised = f"--env=KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}"
    options = [f"--label={label()}", publish, advertised, *_OPTIONS[service]]
    return ["docker", "run", "--detach", *options, image(service), *_ARGUMENTS[service]]
