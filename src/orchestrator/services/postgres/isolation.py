"""Clean state for each test: a schema with a login of its own, or a clone of the database."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError
from orchestrator.services.once import driver
from orchestrator.services.postgres.admin import LOGIN_UNTIL, literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.services.postgres.admin import Admin

_NAME_LENGTH: Final = 58  # bytes; with a number it is within the 63 that the server takes
_FILE_COPY_SINCE: Final = 15
_OWNER_HAS_PUBLIC_SINCE: Final = 15
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
                with contextlib.closing(admin.elsewhere(own)) as inside:
                    mine = f"reassign owned by {quoted(user)} to {name}"
                    if admin.major < _OWNER_HAS_PUBLIC_SINCE:
                        mine += f"; alter schema public owner to {name}"
                    inside.run(mine)
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


@dataclass(frozen=True)
class Login:
    """A role of a test's own to log in as; its sessions are another role's, with a search path.

    So no URL needs to tell a driver the search path.

    Attributes:
        name: What it is called, a plain name.
        role: Whose the sessions are, with all its settings and rights.
        path: The search path.
        verifier: Its password, as the server stores it.
        database: The only one where the search path is that.
        connects: Whether it needs a right to connect to that.
    """

    name: str
    role: str
    path: str
    verifier: str
    database: str
    connects: bool = False

    @contextlib.contextmanager
    def made(self, admin: Admin, *, before: str = "", after: str = "") -> Iterator[None]:
        """It is there while the block runs.

        Args:
            admin: Makes and drops it.
            before: What else is executed with that, in one round trip: before it is made,
            after: and before it is dropped.
        """
        admin.ask(before + self._make)
        try:
            yield
        finally:
            try:
                admin.ask(after + self._drop)
            except driver("psycopg.errors").DependentObjectsStillExist:
                # It owns something elsewhere: then it is one of the test's leftovers.
                admin.ask(f"{after}alter role {self.name} valid until 'infinity'")

    @property
    def _make(self) -> str:
        # Writing the password to the catalog spares 4096 rounds of hashing, 5 ms.
        name, base = self.name, literal(self.role)
        right = f"; grant connect, temporary on database {quoted(self.database)} to {name}"
        return f"""
            create role {name} login valid until '{LOGIN_UNTIL}' in role {quoted(self.role)};
            update pg_authid own set rolpassword = {literal(self.verifier)},
                rolsuper = base.rolsuper, rolreplication = base.rolreplication from pg_authid base
                where own.rolname = '{name}' and base.rolname = {base};
            insert into pg_db_role_setting select setdatabase, '{name}'::regrole, setconfig
                from pg_db_role_setting join pg_authid it on it.oid = setrole
                where rolname = {base};
            select set_config('search_path', {literal(self.path)}, true);
            alter role {name} in database {quoted(self.database)} set search_path from current;
            alter role {name} set role = {base}{right if self.connects else ""}
        """  # noqa: S608 - quoted

    @property
    def _drop(self) -> str:
        return (
            f"reassign owned by {self.name} to {quoted(self.role)}; drop owned by {self.name}; "
            f"drop role {self.name}"
        )


def schema(
    admin: Admin, name: str, *, roles: Sequence[str], login: Login, owner: str = ""
) -> contextlib.AbstractContextManager[None]:
    """An empty schema with its login, which the class's roles may use, while the block runs."""
    usage = f"grant usage on schema {name} to {', '.join(map(quoted, roles))}; " if roles else ""
    whose = f" authorization {owner}" if owner else ""
    return login.made(
        admin,
        before=f"create schema if not exists {name}{whose}; {usage}",
        after=f"drop schema if exists {name} cascade; ",
    )


def search_path(admin: Admin, *, of: str = "", database: str = "") -> str:
    """Where sessions find unqualified names: those of `admin`, or of a role in a database."""
    [[path]] = admin.run(
        """
        select coalesce(
            (select substr(setting, 13) from pg_db_role_setting, unnest(setconfig) setting
             where starts_with(setting, 'search_path=')
               and setrole in (select oid from pg_roles where rolname = %(role)s)
               and setdatabase in (0, (select oid from pg_database where datname = %(database)s))
             order by setdatabase <> 0 desc limit 1),
            (select reset_val from pg_settings where name = 'search_path'))
        """,
        {"role": of, "database": database},
    )
    return str(path)


@contextlib.contextmanager
def clone(
    admin: Admin, name: str, *, of: str, durable: bool, alias: str = "", owner: str = ""
) -> Iterator[None]:
    """A copy of a database, settings and all; dropped when the block ends.

    With an `owner`, nobody but that may connect to it.

    Raises:
        ServiceError: Somebody works in the original.
    """
    # Copying files beats replaying them as WAL, except when each must reach the disk.
    files = not durable and admin.major >= _FILE_COPY_SINCE
    statement = f"create database {name} template {quoted(of)}"
    statement += f" owner {owner}" if owner else ""
    statement += " strategy file_copy" if files else ""
    in_use = driver("psycopg.errors", extra="postgres").ObjectInUse
    try:
        admin.run(statement)
    except in_use:
        admin.run(_END_IDLE, [of])
        try:
            admin.run(statement)
        except in_use as error:
            [(count, application, query)] = admin.run(_USERS_OF, [of])
            raise ServiceError(
                f"{alias}: the class's database {of!r} cannot be cloned for the test while {count} "
                f"connection(s) work in it (application {application}, query {query!r}). "
                "End what setUpClass began there: commit, or close the connection.",
                service=alias,
            ) from error
    try:
        admin.run(
            """
            insert into pg_db_role_setting select made.oid, setrole, setconfig
            from pg_db_role_setting join pg_database it on it.oid = setdatabase, pg_database made
            where it.datname = %s and made.datname = %s
            """,
            [of, name],
        )
        if owner:
            admin.run(f"revoke all on database {name} from public")
        yield
    finally:
        admin.run(f"drop database if exists {name} with (force)")
