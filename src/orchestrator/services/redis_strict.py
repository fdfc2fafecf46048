"""strict=True: what a test was refused, and whose it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.services.redis import Redis


def check(service: Redis, *, test: str) -> None:
    """Look at what the server refused during the test, also when the test did not notice.

    Raises:
        ServiceError: It was another test's, or nobody's; the message names both.
    """
    pipeline = service.admin.pipeline(transaction=False)
    pipeline.acl_log()
    pipeline.acl_log_reset()  # each refusal is told once
    found, _ = pipeline.execute()
    problems = [told for entry in found if (told := _told(entry, test, service.tests))]
    service.tests.append(test)
    if problems:
        raise ServiceError(
            f"{service.alias}: tests are not isolated from each other: " + "; ".join(problems),
            service=service.alias,
        )


def _told(entry: Mapping[str, Any], test: str, others: Iterable[str]) -> str:
    """One refusal in words; empty when it says nothing of isolation."""
    user, reason, thing = (_text(entry[name]) for name in ("username", "reason", "object"))
    if reason == "auth":
        return f"a client of {user} was still at work during {test}" if user in others else ""
    if user != test:
        return ""
    if reason == "command":
        return f"{test} called {thing.upper()}, which concerns the keys of every test"
    owner = next((other for other in others if thing.startswith(f"{other}:")), None)
    whose = f"of {owner}" if owner else f"that does not begin with its prefix '{test}:'"
    return f"{test} touched the {reason} {thing!r} {whose}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
