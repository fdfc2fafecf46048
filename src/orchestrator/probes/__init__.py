"""Readiness: how to tell that a server will answer.

A probe is tried every 15 ms until it succeeds or the deadline passes, from the host, as the test
will. Whether the container is still alive is checked in the loop, so no probe has to.
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
