"""The users that a guarded broker is told of once it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.kafka_security import USER

if TYPE_CHECKING:
    import kafka

    from orchestrator.services.kafka_security import Guard

_KNOWN: Final = 10.0
_INTERVAL: Final = 0.002


def create(admin: kafka.KafkaAdminClient, guard: Guard, *, service: str) -> None:
    """Create the user of a test's clients, if his password is not in a file; he can log in then.

    Raises:
        ServiceError: The broker refused, or does not know him after ten seconds.
    """
    if not guard.scram:
        return
    users = driver("kafka.admin", extra="kafka")
    upsertion = users.UserScramCredentialUpsertion(USER, guard.mechanism, str(guard.password))
    refusal = admin.alter_user_scram_credentials([upsertion])[USER]
    deadline = time.monotonic() + _KNOWN
    while not refusal:
        known = admin.describe_user_scram_credentials([USER])[USER]
        if known["credential_infos"]:
            return
        if time.monotonic() > deadline:
            refusal = f"he is not known {_KNOWN:g} s later"
        time.sleep(_INTERVAL)
    raise ServiceError(f"{service} refused the user {USER!r}: {refusal}", service=service)
