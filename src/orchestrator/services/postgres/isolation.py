"""Databases of a test's own, or of a class's on a shared server: copies of one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from orchestrator.errors import ServiceError
from orchestrator.services.once import driver
from orchestrator.services.postgres.setup import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.services.postgres.admin import Admin, PatientConnection
    from orchestrator.services.postgres.server import ServerState

_NAME_LENGTH: Final = 58  # bytes; with a number it is within the 63 that the server takes
_FILE_COPY_SINCE: Final = 15
_OWNER_HAS_PUBLIC_SINCE: Final = 15
_COUNTS_SESSIONS_SINCE: Final = 15  # at once; before, later than one would like to know
_BUSY: Final = 0
# Whether anybody is in a database, which one it is, and how many have been there. Who has left has
# been counted; so who is there is looked at first.
_VISITS: Final = """
    select json_build_array(
        exists (
            select from pg_stat_get_activity(null)
            where datid = it.oid and backend_type <> 'autovacuum worker'),
        oid::int8, pg_stat_get_db_sessions(oid))
    from pg_database it where datname = $1
"""
# What `alter database` and `alter role in database` have set.
_SETTINGS: Final = """
    insert into pg_db_role_setting select made.oid, setrole, setconfig
    from pg_db_role_setting join pg_database it on it.oid = setdatabase, pg_database made
    where it.datname = {of} and made.datname = {made}
"""
_DROP: Final = "drop database if exists {} with (force)"
# Whoever outlives its test is cut off at once, though the database itself goes a little later.
_SHUT: Final = """
    update pg_database set datallowconn = false where datname = '{0}';
    select pg_terminate_backend(pid) from pg_stat_get_activity(null)
    where datid = (select oid from pg_database where datname = '{0}')
"""
# Nobody but its owner may connect to it.
_ALONE: Final = "; revoke all on database {} from public"
_END_IDLE: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = %s and pid <> pg_backend_pid() and state = 'idle'
"""
_USERS_OF: Final = """
    select count(*), min(coalesce(nullif(application_name, ''), 'unnamed')), min(query)
    from pg_stat_activity where datname = %s and pid <> pg_backend_pid()
"""


def name_of(test: str) -> str:
    """What a test's schema or database is called: a plain name, recognisable in logs."""
    plain = re.sub(r"[^a-z0-9_]", "_", test.lower())
    name = plain if plain.startswith("test") else f"test_{plain}"
    return name if len(name) <= _NAME_LENGTH else f"test_{name[5 - _NAME_LENGTH :]}"


@contextlib.contextmanager
def part(
    admin: Admin,
    name: str,
    *,
    inside: Admin | None,
    of: Mapping[str, str],
    user: str,
    roles: Sequence[str],
    durable: bool,
    password: str,
) -> Iterator[None]:
    """A role with databases of its own, which nobody else can connect to; dropped when it ends.

    Args:
        admin: The superuser's, outside of these databases.
        name: What the role is called.
        inside: The superuser's in the database that is called so too, if there is one already.
        of: The databases of the server to what the copies are called.
        user: Who owns what is in them; in the copies the role does.
        roles: What it may become besides.
        durable: As of `clone`.
        password: Its password, as the server stores it.
    """
    granted = "".join(f"; grant {quoted(role)} to {name}" for role in roles)
    admin.run(f"create role {name} login password {literal(password)}{granted}")
    try:
        with contextlib.ExitStack() as stack:
            for original, own in of.items():
                stack.enter_context(clone(admin, own, of=original, durable=durable, owner=name))
                mine = f"reassign owned by {quoted(user)} to {name}"
                if admin.major < _OWNER_HAS_PUBLIC_SINCE:
                    mine += f"; alter schema public owner to {name}"
                if inside is not None and own == name:
                    inside.run(mine)
                    continue
                with contextlib.closing(admin.elsewhere(own)) as further:
                    further.run(mine)
            admin.run(
                f"""
                insert into pg_db_role_setting select setdatabase, '{name}'::regrole, setconfig
                from pg_db_role_setting where setrole = {literal(quoted(user))}::regrole
                """  # noqa: S608 - quoted
            )
            yield
    finally:
        [*_, unique] = name.split("_")
        found = admin.run("select rolname from pg_roles where rolname ~ %s", [unique])
        for [role] in found:  # and logins of tests that could not be dropped with them
            admin.run(f"drop owned by {quoted(role)}; drop role {quoted(role)}")


@contextlib.contextmanager
def clone(admin: Admin, name: str, *, of: str, durable: bool, owner: str) -> Iterator[None]:
    """A copy of a database that nobody else uses, for an owner alone; dropped at the end."""
    try:
        admin.ask(copying(admin, name, of=of, durable=durable, owner=owner))
        admin.ask(_SETTINGS.format(made=literal(name), of=literal(of)) + _ALONE.format(name))
        yield
    finally:
        admin.ask(_DROP.format(name))


def copying(admin: Admin, name: str, *, of: str, durable: bool, owner: str) -> str:
    """The statement that copies a database."""
    # Copying files beats replaying them as WAL, except when each must reach the disk.
    files = not durable and admin.major >= _FILE_COPY_SINCE
    statement = f"create database {name} template {quoted(of)}"
    statement += f" owner {owner}" if owner else ""
    return f"{statement} strategy file_copy" if files else statement


@dataclass(eq=False)
class Clone:
    """A test's database: a copy of the class's, which is made when it is first claimed."""

    of: Clones
    name: str
    claimed: bool = False

    def claim(self) -> None:
        """Have it, if it is not there yet.

        Raises:
            ServiceError: Somebody works in the class's database.
        """
        if not self.claimed:
            self.of.give(self)


@dataclass
class _Next:
    """The copy that is made ahead, what was known of the class's database then, and if it is there.

    Nobody uses it yet.
    """

    name: str
    known: object
    there: bool = False


class Clones:
    """Copies of a class's database, one for each test that reads the service.

    From the second on, the next one is made while a test runs: the server does that, and nobody
    waits. It becomes a test's only if nobody was in the class's database meanwhile: then it is what
    would be made now.

    Args:
        admin: Makes and drops them; connected to another database.
        of: The class's database.
        durable: Whether commits have to reach the disk.
        alias: The service's, for errors.
        server: Knows what tests have on the server.
        owner: Who alone may connect to them; empty for whoever may connect to the class's.
    """

    def __init__(
        self,
        admin: Admin,
        *,
        of: str,
        durable: bool,
        alias: str,
        server: ServerState,
        owner: str,
    ) -> None:
        self._admin = admin
        self._of = of
        self._alias = alias
        self._live, self._lock = server.live, server.lock
        self._durable = durable
        self._owner = owner
        self._can_tell = admin.major >= _COUNTS_SESSIONS_SINCE
        self._given = 0
        self._ahead_from = 2  # a class with one test needs none
        self._pause = 1
        self._seconds = 0.0  # that one took
        self._maker: PatientConnection | None = None
        self._posted: deque[str] = deque()  # names of those it makes or drops
        self._next: _Next | None = None
        self._ended: list[str] = []  # those that nobody needs

    @contextlib.contextmanager
    def kept(self, clone: Clone) -> Iterator[None]:
        """It can be claimed in the block; then it is shut, and nobody waits until it is gone."""
        _unclaimed.add(clone)
        try:
            yield
        finally:
            _unclaimed.discard(clone)
            if clone.claimed:
                with self._lock.held():
                    self._admin.ask(_SHUT.format(clone.name))
                    self._drop(clone.name)

    def give(self, clone: Clone) -> None:
        """Make a copy of the database, or take the one that is made already.

        Raises:
            ServiceError: Somebody works in the class's.
        """
        with self._lock.held():
            if clone.claimed:
                return
            self._given += 1
            ahead = self._can_tell and self._given >= self._ahead_from
            known = json.loads(self._admin.ask(_VISITS, self._of)) if ahead else None
            self._await_gone(clone.name)
            self._live.append(clone.name)
            try:
                rename = self._rename(clone.name) if self._is_ready(known) else ""
                if not rename:
                    self._create(clone.name)
                settings = _SETTINGS.format(made=literal(clone.name), of=literal(self._of))
                alone = _ALONE.format(clone.name) if self._owner else ""
                self._admin.ask(rename + settings + alone)
            except BaseException:
                self._live.remove(clone.name)
                raise
            clone.claimed = True
            _unclaimed.discard(clone)
            if known is not None and not known[_BUSY] and self._given >= self._ahead_from:
                self._make_next(known)

    def close(self, *, drop: bool) -> None:
        """End our own session; `drop` what is left, where the server lives on."""
        with self._lock.held():
            if drop and self._posted:
                self._settle(self._posted[-1])
            self._give_up()
            if drop:
                self._drop(now=True)

    def _statement(self, name: str) -> str:
        return copying(self._admin, name, of=self._of, durable=self._durable, owner=self._owner)

    def _create(self, name: str) -> None:
        in_use = driver("psycopg.errors", extra="postgres").ObjectInUse
        began = time.monotonic()
        try:
            self._admin.ask(self._statement(name))
        except in_use:
            self._admin.run(_END_IDLE, [self._of])
            try:
                self._admin.ask(self._statement(name))
            except in_use as error:
                [(count, application, query)] = self._admin.run(_USERS_OF, [self._of])
                raise ServiceError(
                    f"{self._alias}: the class's database {self._of!r} cannot be cloned for the "
                    f"test while {count} connection(s) work in it (application {application}, "
                    f"query {query!r}). End what setUpClass began there: commit, or close the "
                    "connection.",
                    service=self._alias,
                ) from error
        self._seconds = time.monotonic() - began

    def _make_next(self, known: object) -> None:
        error = driver("psycopg", extra="postgres").Error
        name = f"test_next_{os.urandom(4).hex()}"
        try:
            if self._maker is None:
                from orchestrator.services.postgres.admin import OPTIONS, PatientConnection

                # It waits for others to leave the class's database, where nobody can begin then.
                limit = max(3.0, 10 * self._seconds) * 1000
                options = f"{OPTIONS} -cstatement_timeout={limit:.0f}"
                self._maker = self._admin.connect(PatientConnection, options=options)
            self._live.append(name)
            self._posted.append(name)
            self._next = _Next(name, known)
            self._maker.post(self._statement(name))
        except error:
            self._give_up()
        self._drop()

    def _is_ready(self, known: object) -> bool:
        """Whether one was made ahead that is as good as one made now."""
        if self._next is not None:
            self._settle(self._next.name)
        if self._next is None:
            return False
        if self._next.there and self._next.known == known:
            return True
        self._give_up()
        self._drop()
        return False

    def _rename(self, name: str) -> str:
        """The statement that gives the one that was made ahead its name."""
        assert self._next is not None  # noqa: S101 - for the type checker
        made, self._next = self._next.name, None
        self._live.remove(made)
        return f"alter database {made} rename to {name}; "

    def _await_gone(self, name: str) -> None:
        """A test of the same name may have ended just now."""
        self._settle(name)
        if name in self._ended:
            self._ended.remove(name)
            self._admin.ask(_DROP.format(name))
            self._live.remove(name)

    def _settle(self, wanted: str) -> None:
        """Wait for what was posted, until that about one database."""
        error = driver("psycopg", extra="postgres").Error
        while self._maker is not None and wanted in self._posted:
            try:
                self._maker.settle()
                done = True
            except error:
                done = False
                if self._maker.closed:
                    self._give_up()
                    return
            except BaseException:
                self._give_up()
                raise
            name = self._posted.popleft()
            if self._next is not None and name == self._next.name:
                self._next.there = done
            elif done:
                self._live.remove(name)
            else:
                self._ended.append(name)

    def _drop(self, *names: str, now: bool = False) -> None:
        """Have the server drop databases; those of the first test may wait for the next one."""
        self._ended.extend(names)
        error = driver("psycopg", extra="postgres").Error
        while self._ended and (now or self._maker is not None or self._given > 1):
            name = self._ended.pop()
            if self._maker is None:
                self._admin.ask(_DROP.format(name))
                self._live.remove(name)
                continue
            self._posted.append(name)
            try:
                self._maker.post(_DROP.format(name))
            except error:
                self._give_up()

    def _give_up(self) -> None:
        """Make no more ahead, for a while: the class's database changes, or the server ended."""
        self._ahead_from, self._pause = self._given + self._pause, 4 * self._pause
        if self._maker is not None:
            self._maker.close()
            self._maker = None
        self._ended.extend(self._posted)
        self._posted.clear()
        if self._next is not None and self._next.name not in self._ended:
            self._ended.append(self._next.name)
        self._next = None


_unclaimed: Final[WeakSet[Clone]] = WeakSet()


def _claim_all() -> None:
    """A child could not have them from a session that it shares with its parent."""
    for clone in tuple(_unclaimed):
        with contextlib.suppress(Exception):  # whoever needs it is told then
            clone.claim()


os.register_at_fork(before=_claim_all)
