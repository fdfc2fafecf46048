"""One class's network and services: start, bind, stop."""

from orchestrator.environment.environment import Environment

__all__ = ["Environment"]
