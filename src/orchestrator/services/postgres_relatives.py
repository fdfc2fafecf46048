"""The same server for another of the class's databases, or for one of its roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.services.postgres_isolation import isolation

if TYPE_CHECKING:
    from orchestrator.services.postgres import Postgres

    Handle = TypeVar("Handle", bound=Postgres)


def in_database(service: Handle, name: str) -> Handle:
    """A handle of another database, isolated like the first."""
    if name == service.database or name not in service.databases:
        raise DeclarationError(
            f"{service.alias} has no other database {name!r}; it has {_listed(service.databases)}"
        )
    of_class = service.of_class
    if of_class is service:
        migrate = service.databases[name] if isinstance(service.databases, Mapping) else None
        return service.copy_with(database=name, migrate=migrate, init=(), _related={})
    other = of_class.in_database(name)
    number = list(service.databases).index(name) + 2
    clone = f"{service.test}_{number}" if other.clones else service.test
    changes = service.clients.enter_context(isolation(other, test=service.test, name=clone))
    return service.copy_with(
        **{"database": name, "_of_class": other, "_related": {}, "_shared": None, **changes}
    )


def as_role(service: Handle, name: str) -> Handle:
    """A handle that connects as a role."""
    if name not in service.roles:
        raise DeclarationError(
            f"{service.alias} has no role {name!r}; it has {_listed(service.roles)}"
        )
    if service.shared:
        raise ServiceError(
            f"{service.alias}: a role needs connections of its own; with isolation='transaction' "
            "all of them share one. Use isolation='database' or 'schema'.",
            service=service.alias,
        )
    return service.copy_with(username=name, password=service.role_passwords[name], _related={})


def _listed(names: object) -> str:
    return ", ".join(map(repr, names)) if names else "none"  # type: ignore[call-overload]
