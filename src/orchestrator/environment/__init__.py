"""`Services`: running services where there is no test class; and what a class may declare.

`ServicesMixin` stands on the same: a class's declarations, an `Environment` that runs them, and the
errors of its start and its end.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from orchestrator.errors import (
    DeclarationError,
    EngineUnavailableError,
    OrchestratorError,
    ServiceNotRunningError,
    missing_attribute,
)
from orchestrator.services.compose import Compose, services_of
from orchestrator.services.hooks import HANDLES
from orchestrator.services.once import OwnStack, ProcessLock, importing_much
from orchestrator.services.options import check_alias
from orchestrator.services.service import Service, in_order
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from types import TracebackType

    from orchestrator.environment.environment import Environment

ENVIRONMENT: Final = "_orchestrator_environment"
"""Where a test class, and each `Services`, keeps what runs its services."""
_AHEAD: Final = "_orchestrator_ahead"
_NAME_LENGTH: Final = 40
_turns: Final = ProcessLock()
__unittest = __tracebackhide__ = True  # unittest and pytest leave our frames out of tracebacks

Result = TypeVar("Result")


class Services:
    """Runs services where there is no test class: in a fixture, ``setUpModule``, a script.

    Declare them as class attributes, and enter an instance::

        class Shop(Services):
            db = Postgres(migrate=migrate)
            cache = Redis()

        with Shop() as shop:
            with shop.isolated("a name") as clean:
                clean.db.url

    They start side by side on a private network, and run until the block ends; whatever ends the
    process removes them, too. Each instance has servers of its own. Starting them blocks: in a
    coroutine, ``await asyncio.to_thread(stack.enter_context, Shop())`` on an `ExitStack` does not.

    A service with ``scope="test"`` has a server for each `isolated`, and with ``"process"`` one for
    all instances of the classes that have its declaration.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_declarations(cls, Services)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Say which service was probably meant."""
            return missing_attribute(self, name)

    def __enter__(self) -> Self:
        """Start the services; return when all of them are ready.

        Raises:
            DeclarationError: This instance has been entered already.
            OrchestratorError: They could not be started; nothing of them is left.
        """
        environment = environment_of(type(self))
        if vars(self).setdefault(ENVIRONMENT, environment) is not environment:
            name = type(self).__name__
            raise DeclarationError(
                f"This {name} is entered already; another {name}() has servers of its own"
            )
        try:
            start(environment)
        except BaseException:
            del vars(self)[ENVIRONMENT]
            raise
        vars(self)[HANDLES] = environment.handles
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Remove everything; what could not be is told beside an error of the block."""
        vars(self).pop(HANDLES, None)
        if isinstance(error, Exception):
            vars(self)[ENVIRONMENT].failed(error)
        end(partial(vars(self).pop(ENVIRONMENT).stop, wait=True), block=error)

    @contextlib.contextmanager
    def isolated(self, name: str) -> Iterator[Self]:
        """Give clean state, as each test of a class has it, while the block runs.

        Several at once where every service can be clean for several: `Postgres`, `Container`, and
        any with ``isolation="none"``. Of the others, what came to a server meanwhile is removed at
        the end. So is what a test makes in Postgres outside of its own schema or database.

        Args:
            name: Shows in the names of schemas, topics and the like; need not be unique.

        Raises:
            ServiceNotRunningError: The services have not been entered.
            DeclarationError: Another such block is still open, and a service is for one at a time.
            ServiceError: A service could not give or drop it, for instance because it ended.
        """
        environment: Environment | None = vars(self).get(ENVIRONMENT)
        if environment is None or not environment.started:
            kind = type(self).__name__
            raise ServiceNotRunningError(
                f"{kind}.isolated({name!r}) needs running services: `with {kind}() as it:` first",
                service=kind,
            )
        states = OwnStack()
        states.enter_context(_taking_turns(environment.handles.values(), name))
        clean = copy.copy(self)
        block = None
        try:
            isolation = environment.isolated(unique_name(name))
            vars(clean)[HANDLES] = plainly(lambda: states.enter_context(isolation))
            yield clean
        except BaseException as error:
            block = error
            raise
        finally:
            vars(clean)[HANDLES] = {}
            end(states.close, block=block)


@contextlib.contextmanager
def alone(services: Mapping[str, Service], *, name: str) -> Iterator[Mapping[Service, Service]]:
    """Run services that no class declares, with clean state: declaration to handle."""
    environment, block = _environment(services, name), None
    start(environment)
    try:
        with environment.isolated(unique_name(name)) as handles:
            for handle in handles.values():
                handle._claim()  # noqa: SLF001 - as who reads an attribute does
            yield handles
    except BaseException as error:
        block = error
        raise
    finally:
        end(partial(environment.stop, wait=True), block=block)


def environment_of(cls: type) -> Environment:
    """What runs the services that a class declares."""
    return _environment(declared_services(cls), f"{cls.__module__}.{cls.__qualname__}", cls)


def _environment(
    services: Mapping[str, Service], name: str, cls: type | None = None
) -> Environment:
    with importing_much():  # declaring must not load it
        from orchestrator.environment.environment import Environment

    settings, origin = Settings.from_environment(), None
    if settings.warm and cls is not None:
        from orchestrator.environment import warm

        if warm.may_be_warm(services, settings):
            origin = warm.Origin(cls, services=services, settings=settings)
    return Environment(services, test_class=name, settings=settings, origin=origin)


def start(environment: Environment) -> None:
    """Start an environment; no daemon is a skip, if that is wanted and there are tests to skip."""
    try:
        plainly(environment.start)
    except EngineUnavailableError as error:
        skip = getattr(sys.modules.get("unittest"), "SkipTest", None)
        if skip is not None and environment.skips(error):
            raise skip(str(error)) from error
        raise


# Services that run before the fixture of their class does: the `runner` knows what comes next.


def start_ahead(cls: type) -> None:
    """Start the services of a class; its ``setUpClass`` takes them.

    Raises:
        OrchestratorError: They could not be started; nothing of them is left.
    """
    environment = environment_of(cls)
    environment.start()
    setattr(cls, _AHEAD, environment)
    environment.open_early()


def started_ahead(cls: type) -> Environment | None:
    """What was started ahead, if it is what the class would start now, and runs."""
    environment: Environment | None = vars(cls).get(_AHEAD)
    if environment is None:
        return None
    if environment.services != declared_services(cls) or not environment.lives():
        drop_ahead(cls)
        return None
    delattr(cls, _AHEAD)
    return environment


def drop_ahead(cls: type) -> None:
    """Remove what was started ahead, unless the class has taken it."""
    environment: Environment | None = vars(cls).get(_AHEAD)
    if environment is not None:
        delattr(cls, _AHEAD)
        with contextlib.suppress(OrchestratorError):  # the end of the process tries again
            environment.stop(wait=False)


def plainly(begin: Callable[[], Result]) -> Result:
    """Begin something; its errors have their message and cause, without how we noticed."""
    try:
        return begin()
    except OrchestratorError as error:
        raise error.with_traceback(None) from error.__cause__


def end(stop: Callable[[], None], *, block: BaseException | None = None) -> None:
    """Undo something; its last error has those before it as notes, and is one of the block's."""
    if sys.is_finalizing():
        return  # a generator that was forgotten; the session has removed the servers
    try:
        stop()
    except OrchestratorError as error:
        before = error.__context__
        while isinstance(before, OrchestratorError) and before is not block:
            if before is not error.__cause__:
                error.add_note(f"{type(before).__name__}: {before}")
            before = before.__context__
        if block is not None:
            notes = getattr(error, "__notes__", [])
            block.add_note("\n".join([f"{type(error).__name__}: {error}", *notes]))
            return
        if error.__cause__ is not None:
            error.__cause__.__context__ = error.__cause__.__traceback__ = None
        raise error.with_traceback(None) from error.__cause__


def unique_name(name: str) -> str:
    """A short name that every server accepts, different each time."""
    return f"{re.sub(r'[^a-zA-Z0-9_]', '_', name)[:_NAME_LENGTH]}-{os.urandom(3).hex()}"


@contextlib.contextmanager
def _taking_turns(handles: Collection[Service], name: str) -> Iterator[None]:
    """Refuse clean state to a second one: what came since the first's begin goes at its end."""
    cleaned = [
        handle
        for handle in handles
        if type(handle).isolated is not Service.isolated
        and getattr(handle, "isolation", "") != "none"
        and not handle._is_for_several  # noqa: SLF001 - none of the user's
    ]
    with _turns.held():
        for handle in cleaned:
            if handle.running.isolated:
                shared = "shares it" if handle.scope == "process" else "has servers of its own"
                raise DeclarationError(
                    f"{handle.alias} can be clean for one at a time, and isolated("
                    f"{handle.running.isolated[0]!r}) is still open: end it before "
                    f"isolated({name!r}); another instance {shared}"
                )
        for handle in cleaned:
            handle.running.isolated.append(name)
    try:
        yield
    finally:
        for handle in cleaned:
            handle.running.isolated.remove(name)


# What a class declares.


def declared_services(cls: type) -> Mapping[str, Service]:
    """A class's services by alias, its bases' included; a subclass may replace or unset them.

    Raises:
        DeclarationError: A Compose file cannot be read, or has a service of the same name.
    """
    services: dict[str, Service] = {}
    for name, declared in _declarations(cls).items():
        more = {name: declared} if isinstance(declared, Service) else services_of(declared)
        for alias, service in more.items():
            if alias in services:
                raise DeclarationError(
                    f"{cls.__qualname__}: two services are called {alias!r}; one is from a Compose "
                    "file"
                )
            services[alias] = service
    return services


def _declarations(cls: type) -> Mapping[str, Service | Compose]:
    found: dict[str, Service | Compose] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            found.pop(name, None)
            if isinstance(value, (Service, Compose)):
                found[name] = value
    return found


def check_declarations(cls: type, root: type) -> None:
    """Check what a class declares, and its bases.

    Args:
        cls: The class.
        root: `Services` or `ServicesMixin`; what does not derive from it knows of no services.

    Raises:
        DeclarationError: Something cannot be declared so.
    """
    declared = _declarations(cls)
    seen: dict[object, str] = {}
    for base in cls.__mro__:
        for name, value in vars(base).items():
            bare = isinstance(value, type) and issubclass(value, (Service, Compose))
            if bare and value.__qualname__ != f"{base.__qualname__}.{name}":
                raise DeclarationError(
                    f"{base.__qualname__}.{name} is the class {value.__name__} itself; write "
                    f"{name} = {value.__name__}()"
                )
    for alias, service in declared.items():
        if isinstance(service, Service):
            check_alias(alias)
        if why := _why_taken(cls, alias, root):
            raise DeclarationError(f"{cls.__qualname__}: {alias!r} cannot name a service: {why}")
        for key, why in (
            (alias.lower(), "have one alias; host names do not tell upper from lower case"),
            (service, "are the same declaration; write it out twice for two servers"),
        ):
            if (other := seen.setdefault(key, alias)) != alias:
                raise DeclarationError(f"{cls.__qualname__}: {other!r} and {alias!r} {why}")
    services = {name: it for name, it in declared.items() if isinstance(it, Service)}
    if len(services) == len(declared):
        in_order(services)  # else when the Compose file has been read


def _why_taken(cls: type, alias: str, root: type) -> str:
    """Who has a name already: it would take the service's place, or lose its own."""
    for base in reversed(cls.__mro__):
        knows = issubclass(base, root) and base is not root
        value = vars(base).get(alias, cls)  # which stands for nothing here
        plain = not (callable(value) or hasattr(type(value), "__get__"))
        if not (value is cls or isinstance(value, (Service, Compose)) or (knows and plain)):
            return f"{base.__module__}.{base.__qualname__} has that name itself"
    return ""
