"""The floor: raw `docker run`, tuned alike, until an answer in the words of the protocol."""

import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.benchmarks.machine import free_port, image, label, remove, run

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


# Apart from orchestrator's own probes on purpose: what judges them must not be them.
_INTERVAL: Final = 0.002
_PATIENCE: Final = 1.0
_DEADLINE: Final = 120.0


def _postgres(server: socket.socket) -> bool:
    """It asks who we are (R); while it starts, or in its temporary life, it says otherwise."""
    body = struct.pack("!hh", 3, 0) + b"user\0benchmark\0\0"
    server.sendall(struct.pack("!i", len(body) + 4) + body)
    return server.recv(1) == b"R"


def _redis(server: socket.socket) -> bool:
    """It answers PING, if only to say that it wants a password."""
    server.sendall(b"*1\r\n$4\r\nPING\r\n")
    return server.recv(7) in (b"+PONG\r\n", b"-NOAUTH")


def _kafka(server: socket.socket) -> bool:
    """It lists a broker that takes requests: Metadata, version 5, about no topic."""
    body = struct.pack("!hhih", 3, 5, 7, -1) + struct.pack("!ib", 0, 0)
    server.sendall(struct.pack("!i", len(body)) + body)
    answer = b""
    while len(answer) < 16:
        part = server.recv(16 - len(answer))
        if not part:
            return False
        answer += part
    _, correlation, _, brokers = struct.unpack("!iiii", answer)
    return bool(correlation == 7 and brokers > 0)


_QUESTIONS: Final[Mapping[str, Callable[[socket.socket], bool]]] = {
    "postgres": _postgres,
    "redis": _redis,
    "kafka": _kafka,
}


def first_answer(service: str, port: int) -> float:
    """Ask every two milliseconds until a server answers; the time.monotonic() of its answer."""
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as server:
                if _QUESTIONS[service](server):
                    return time.monotonic()
        except OSError:
            pass
        time.sleep(_INTERVAL)
    raise TimeoutError(f"{service} on port {port} did not answer in {_DEADLINE:g} s")


if __name__ == "__main__":
    print("asking", flush=True)
    print(first_answer(sys.argv[1], int(sys.argv[2])))
