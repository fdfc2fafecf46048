"""Readiness: how to tell that a server will answer.

A probe is tried every 15 ms until it succeeds or the deadline passes. It looks from the host, as
the test will: Docker's proxy accepts connections before the server listens, so an open port proves
nothing. Whether the container is still alive is checked in the loop, so no probe has to.
"""

from orchestrator.probes.checks import (
    All,
    Call,
    Exec,
    Healthcheck,
    Http,
    LogLine,
    NotReadyError,
    Probe,
    Tcp,
)

__all__ = ["All", "Call", "Exec", "Healthcheck", "Http", "LogLine", "NotReadyError", "Probe", "Tcp"]
