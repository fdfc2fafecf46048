"""Clean state for each test: an empty server, or a user that reaches its own keys only."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services import options, redis_strict
from orchestrator.services.redis_leftovers import begin, clear_away
from orchestrator.services.redis_server import verifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.services.redis import Redis

    Changes = Mapping[str, Any]

_EMPTY: Final = (("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"))
# What concerns more than one's own keys is dangerous in Redis's own words; the harmless part of
# that is given back. Scripts and functions are the server's, not a prefix's.
_FENCED: Final = "+@all -@dangerous +info +keys +sort +role -script +script|load +script|exists"
_FUNCTIONS_SINCE: Final = 7
# Deletes the keys of a prefix, in every database that has any, in one round trip.
_DELETE: Final = """
    for database in redis.call('INFO', 'keyspace'):gmatch('db(%d+):') do
        redis.call('SELECT', database)
        local cursor = '0'
        repeat
            local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1] .. '*', 'COUNT', 1000)
            cursor = page[1]
            for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
        until cursor == '0'
    end
"""


@contextlib.contextmanager
def isolation(service: Redis, *, test: str) -> Iterator[Changes]:
    """What the test's handle has otherwise than the class's; gone when the block ends.

    Args:
        service: The class's handle.
        test: The test, as its user is called.

    Raises:
        ServiceError: With ``strict=True``, the test touched what was not its own.
    """
    if service.isolation == "none":
        yield {}
        return
    commands: list[Sequence[str]] = [*_EMPTY] if service.isolation == "flush" else []
    changes: Changes = {}
    if service.isolation == "prefix" or service.strict:
        password = options.random_password()
        rules = _rules(service, test, password)
        commands += [rules, ("ACL", "LOG", "RESET")]
        changes = {"_username": test, "password": password, "_rules": rules}
    before = begin(service, *commands, own=1 if changes else 0)
    try:
        yield changes
    finally:
        clear_away(service, before, test=test)
        if changes:
            _drop_user(service, test)
        if service.strict:
            redis_strict.check(service, test=test)


def _rules(service: Redis, test: str, password: str) -> Sequence[str]:
    """The command that makes a test's user."""
    make = ["ACL", "SETUSER", test, "reset", "on", verifier(password)]
    if service.isolation == "flush":
        return [*make, "~*", "&*", "+@all"]
    keys = f"{test}:*"
    fence = [f"~{keys}", f"&{keys}", f"&__keyspace@*__:{keys}", *_FENCED.split()]
    return [*make, *fence, *(["-function"] if service.major >= _FUNCTIONS_SINCE else [])]


def _drop_user(service: Redis, test: str) -> None:
    """Drop a test's user, whose connections end with it, and its keys."""
    pipeline = service.admin.pipeline(transaction=False)
    pipeline.execute_command("ACL", "DELUSER", test)
    if service.isolation == "prefix":
        pipeline.execute_command("EVAL", _DELETE, 0, f"{test}:")
    pipeline.execute()
    if service.known.marks is not None:
        marks = service.known.marks
        service.known.marks = {**marks, "acl": marks["acl"] + 1}
