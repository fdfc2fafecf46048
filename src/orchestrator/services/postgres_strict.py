"""strict=True: a test works as a role of its own, and what it was refused is looked up.

With ``isolation="schema"``, the role owns the test's schema, and may read what the class made. With
``"transaction"``, it is what the dsn connects as, past the transaction. With ``"database"``, a test
has its clone to itself anyway, and the class's database lets nobody in meanwhile. Each reach for
what another test had is an error of the server then, and stands in its log, also when the code
under test swallowed it.
"""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.postgres_admin import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.services.postgres import Postgres

SETTINGS: Final = {"log_line_prefix": "%m [%p] user=%u db=%d code=%e "}
"""How the server writes its log, so that a line tells whose it is."""
UNSETTABLE: Final = ("log_destination", "log_line_prefix", "log_min_messages", "logging_collector")
_LINE: Final = re.compile(
    r"user=(?P<user>\S*) db=(?P<database>\S*) code=(?P<code>\w{5}) (?:ERROR|FATAL): +(?P<said>.*)"
)
_CLOSED: Final = "55000"  # object_not_in_prerequisite_state: the database takes no connections
_ENDED_BY_US: Final = "57P01"  # admin_shutdown
_WORD: Final = "orchestrator looks at the log"
_DEADLINE: Final = 10.0
_INTERVAL: Final = 0.005
_SCHEMAS_OF_CLASS: Final = """
    select quote_ident(nspname) from pg_namespace
    where nspname !~ '^pg_' and nspname <> 'information_schema' and nspname <> all(%s)
"""


@contextlib.contextmanager
def watched(service: Postgres, *, test: str) -> Iterator[Mapping[str, Any]]:
    """A role for one test, and a look at the log after it.

    Raises:
        ServiceError: The test reached for what another test had; the message names both.
    """
    admin = service.admin
    began = datetime.now(UTC)
    service.tests[test] = True
    if not service.clones:
        admin.run(f"create role {test} login password {literal(service.test_verifier)}")
    try:
        yield {} if service.clones else {"username": test, "password": service.test_password}
    finally:
        service.tests[test] = False
        if not service.clones:
            admin.run(f"drop role {test}")
        _check(service, test=test, since=began)


@contextlib.contextmanager
def fenced(service: Postgres, *, test: str) -> Iterator[None]:
    """Within one database: a test's role reads what is the class's, and changes nothing of it."""
    admin = service.admin
    if service.clones:
        closed = f"alter database {quoted(service.database)} allow_connections"
        admin.run(f"{closed} false")
        try:
            yield
        finally:
            admin.run(f"{closed} true")
        return
    schemas = ", ".join(name for [name] in admin.run(_SCHEMAS_OF_CLASS, [[*service.tests]]))
    if schemas:
        admin.run(
            f"revoke create on schema {schemas} from public;"  # granted to all before PostgreSQL 15
            f"grant usage on schema {schemas} to {test};"
            f"grant select on all tables in schema {schemas} to {test};"
            f"grant select on all sequences in schema {schemas} to {test}"
        )
    try:
        yield
    finally:
        admin.run(f"drop owned by {test} cascade")


def _check(service: Postgres, *, test: str, since: datetime) -> None:
    others = [other for other in service.tests if other != test]
    if not others and not service.clones:
        return
    named = re.compile("|".join(map(re.escape, others)) or r"(?!)")
    problems = {
        told: None
        for line in _LINE.finditer(_log_until_now(service, since))
        if (told := _told(line, test, named, service))
    }
    if problems:
        raise ServiceError(
            f"{service.alias}: tests are not isolated from each other: " + "; ".join(problems),
            service=service.alias,
        )


def _told(line: re.Match[str], test: str, named: re.Pattern[str], service: Postgres) -> str:
    """One line of the log in words; empty when it says nothing of isolation."""
    if line["code"] == _ENDED_BY_US:
        return ""
    if (other := named.search(line["user"])) and not service.tests[other[0]]:
        return f"a client of {other[0]} was still at work during {test} ({line['said']})"
    if other := named.search(f"{line['said']} {line['database']}"):
        who = line["user"] if line["user"] in service.tests else test
        return f"{who} reached for what {other[0]} had ({line['said']})"
    if line["code"] == _CLOSED and line["database"] == service.database and service.clones:
        return f"{test} connected to the class's database {service.database!r}"
    return ""


def _log_until_now(service: Postgres, since: datetime) -> str:
    """What the server has logged since we looked last.

    Docker hands it on a little later, so we wait for a word of our own.
    """
    word = f"{_WORD} {time.monotonic_ns()}"
    service.admin.run(f"do $$ begin raise log '{word}'; end $$")
    deadline = time.monotonic() + _DEADLINE
    while word not in (log := service.logs(since=since)):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{service.alias}: its log cannot be read, so strict=True cannot tell what it "
                "refused; do settings or env send it elsewhere?",
                service=service.alias,
            )
        time.sleep(_INTERVAL)
    return log.partition(word)[0].rpartition(_WORD)[2]
