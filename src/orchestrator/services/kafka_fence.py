"""Strict isolation: a test may use names that begin with its own prefix, and no others.

While a test runs, ACLs allow its clients exactly that. Whatever else they ask for the broker
denies, and says so in its log, also when the code under test swallows the error.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError
from orchestrator.services import kafka_acls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.kafka_handle import KafkaHandle

_LOGGED: Final = 1.0
_INTERVAL: Final = 0.005
_KINDS: Final = {
    "Topic": "topic",
    "Group": "group",
    "TransactionalId": "transactional id",
    "": "topic or group",
}


@dataclass
class Fence:
    """Keeps the tests of one class apart, and names those that do not keep to themselves."""

    tests: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def around(self, handle: KafkaHandle, *, test: str, principal: str) -> Iterator[None]:
        """Allow one test its names.

        Raises:
            ServiceError: It touched another name; the message says which, and whose it is.
        """
        self.tests.append(test)
        began = datetime.now(UTC)
        acls = kafka_acls.everything_with(handle.prefix, principal=principal)
        kafka_acls.create(handle.control, acls, service=handle.alias)
        try:
            yield
        finally:
            kafka_acls.delete(handle.control, acls)
        touched = self._touched(handle, since=began, principal=principal)
        if touched:
            raise ServiceError(
                f"{handle.alias}: "
                + "; ".join(self.trespass(test, kind, name) for kind, name in touched),
                service=handle.alias,
            )

    def trespass(self, test: str, kind: str, name: str) -> str:
        """A sentence about who touched what of whom."""
        owner = next((other for other in self.tests if name.startswith(f"{other}-")), None)
        if owner is None:
            return (
                f"{test} touched the {kind} {name!r}, which is not its own: the names of its own "
                f"begin with '{test}-' (the attribute `prefix`)"
            )
        return f"{test} touched the {kind} {name!r}, which belongs to {owner}"

    def _touched(
        self, handle: KafkaHandle, *, since: datetime, principal: str
    ) -> list[tuple[str, str]]:
        """What the broker denied since then, each once: kind and name."""
        found = handle.denial.finditer(_log_to_the_end(handle, since=since))
        denied = [match.groupdict() for match in found if principal.endswith(match["principal"])]
        return list(dict.fromkeys((_KINDS[each.get("kind", "")], each["name"]) for each in denied))


def _log_to_the_end(handle: KafkaHandle, *, since: datetime) -> str:
    """The test's log, once it tells that the test's ACLs were removed, if the broker tells that."""
    deadline = time.monotonic() + _LOGGED
    last = re.compile(handle.acl_removed.format(re.escape(handle.prefix)))
    while True:
        log = handle.logs(since=since)
        if last.search(log) or time.monotonic() > deadline:
            return log
        time.sleep(_INTERVAL)
