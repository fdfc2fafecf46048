"""The access control lists of a guarded broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import kafka

_IN_FORCE: Final = 10.0
_INTERVAL: Final = 0.002
_PREFIXED: Final = ("TOPIC", "GROUP", "TRANSACTIONAL_ID")


def everything_with(prefix: str, *, principal: str) -> Sequence[kafka.admin.ACL]:
    """What lets a principal do anything with names that begin with a prefix, and nothing else."""
    words = _words()
    return [
        words.ACL(
            principal=principal,
            host="*",
            operation=words.ACLOperation.ALL,
            permission_type=words.ACLPermissionType.ALLOW,
            resource_pattern=words.ResourcePattern(
                words.ResourceType[kind], prefix, words.ACLResourcePatternType.PREFIXED
            ),
        )
        for kind in _PREFIXED
    ]


def in_force(admin: kafka.KafkaAdminClient) -> frozenset[kafka.admin.ACL]:
    """All of them, as the broker applies them now."""
    words = _words()
    any_resource = words.ResourcePatternFilter(
        words.ResourceType.ANY, None, words.ACLResourcePatternType.ANY
    )
    anything = words.ACLFilter(
        principal=None,
        host=None,
        operation=words.ACLOperation.ANY,
        permission_type=words.ACLPermissionType.ANY,
        resource_pattern=any_resource,
    )
    found, _ = admin.describe_acls(anything)
    return frozenset(found)


def create(admin: kafka.KafkaAdminClient, acls: Sequence[kafka.admin.ACL], *, service: str) -> None:
    """Create some; they are in force when this returns.

    Raises:
        ServiceError: The broker refused, or did not apply them in ten seconds.
    """
    refused = admin.create_acls(list(acls))["failed"]
    deadline = time.monotonic() + _IN_FORCE
    while not refused and not in_force(admin).issuperset(acls):
        if time.monotonic() > deadline:
            refused = [f"not in force {_IN_FORCE:g} s later"]
        time.sleep(_INTERVAL)
    if refused:
        raise ServiceError(f"{service} refused ACLs: {refused[0]}", service=service)


def delete(admin: kafka.KafkaAdminClient, acls: Iterable[kafka.admin.ACL]) -> None:
    """Delete some; one that is gone meanwhile is no error."""
    if filters := list(acls):
        admin.delete_acls(filters)


def _words() -> Any:
    return driver("kafka.admin", extra="kafka")
