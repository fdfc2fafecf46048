"""Real Postgres, Redis and Kafka in unittest test cases: clean per test, nothing left behind."""

from orchestrator import errors, probes
from orchestrator.mixin import ServicesMixin
from orchestrator.services.build import Build
from orchestrator.services.compose import Compose
from orchestrator.services.container import Container
from orchestrator.services.kafka import Kafka
from orchestrator.services.postgres import Postgres
from orchestrator.services.redis import Redis
from orchestrator.services.service import Service

__all__ = [
    "Build",
    "Compose",
    "Container",
    "Kafka",
    "Postgres",
    "Redis",
    "Service",
    "ServicesMixin",
    "errors",
    "probes",
]
