"""`ServicesMixin`: starts a test class's services, and gives each of its tests clean state."""

from __future__ import annotations

import contextlib
import os
import re
import traceback
import unittest
from typing import TYPE_CHECKING, Any, Final, NoReturn
from unittest import TestCase

from orchestrator.errors import DeclarationError, EngineUnavailableError, OrchestratorError
from orchestrator.services.compose import Compose, services_of
from orchestrator.services.hooks import HANDLES, declared_as
from orchestrator.services.once import OwnStack
from orchestrator.services.options import check_alias
from orchestrator.services.service import Service, in_order
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.environment import Environment

    _Base = TestCase
else:
    _Base = object

_ENVIRONMENT: Final = "_orchestrator_environment"
_REPORTS: Final = ("addError", "addFailure", "addSubTest")
_NAME_LENGTH: Final = 40
_FELL_THROUGH: Final = 70  # the exit status of a child that returned from its test
__unittest = __tracebackhide__ = True  # unittest and pytest leave our frames out of tracebacks


class _EveryTestIsSkipped:
    """Whether every test method of a class is skipped: unittest then runs no fixture of it.

    Asked for when the class runs, because class decorators still add tests to it. A class that is
    skipped itself has an attribute of its own in place of this.
    """

    def __get__(self, instance: object, cls: type[TestCase]) -> bool:
        tests = [getattr(cls, name) for name in unittest.defaultTestLoader.getTestCaseNames(cls)]
        return bool(tests) and all(getattr(test, "__unittest_skip__", False) for test in tests)


class _ReasonToSkip:
    """The reason, where all tests have the same; else unittest takes that of each test."""

    def __get__(self, instance: object, cls: type[TestCase]) -> str:
        names = unittest.defaultTestLoader.getTestCaseNames(cls)
        reasons = {getattr(getattr(cls, name), "__unittest_skip_why__", "") for name in names}
        return str(reasons.pop()) if len(reasons) == 1 else ""


class ServicesMixin(_Base):
    """Gives a test class running services; put it before ``TestCase``.

    Declare services as class attributes::

        class CheckoutTest(ServicesMixin, unittest.TestCase):
            db = Postgres()

            def test_order(self):
                with self.db.engine.begin() as connection: ...

    They run from the class's ``setUpClass`` to its end, and every test gets clean state. A
    ``setUpClass`` of your own calls ``super().setUpClass()`` first. A class whose tests are all
    skipped starts none.
    """

    __unittest_skip__ = _EveryTestIsSkipped()
    __unittest_skip_why__ = _ReasonToSkip()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if TestCase in order and order.index(TestCase) < order.index(ServicesMixin):
            raise DeclarationError(
                f"{cls.__qualname__}: put ServicesMixin before TestCase in the bases, as in "
                f"class {cls.__name__}(ServicesMixin, unittest.TestCase)"
            )
        declared = _declarations(cls)
        services = {name: it for name, it in declared.items() if isinstance(it, Service)}
        _check_aliases(cls, services)
        if len(services) == len(declared):
            in_order(services)  # else when the Compose file has been read

    @classmethod
    def setUpClass(cls) -> None:
        """Start the class's services; return when all of them are ready.

        Raises:
            OrchestratorError: They could not be started; nothing of them is left.
            unittest.SkipTest: There is no daemon, and ``ORCHESTRATOR_SKIP_WITHOUT_DOCKER=1``.
        """
        if services := declared_services(cls):
            _start(cls, services)
        super().setUpClass()

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test with clean state; what fails gets a note with its services' logs."""
        if not declared_services(type(self)):
            return super().run(result)
        with _in_one_process(), self._isolating():
            if result is None:
                return super().run()  # whoever gives no result is handed one, without notes
            watched: Any = _Watched(result, self)
            super().run(watched)
        return result

    def debug(self) -> None:
        """Run the test with clean state, without collecting its result."""
        with _in_one_process(), self._isolating():
            super().debug()

    @contextlib.contextmanager
    def _isolating(self) -> Iterator[None]:
        """Let ``setUp`` begin with clean state: a failure to give it is then the test's error."""
        user_set_up = self.setUp

        def set_up() -> None:
            # Gone before the test begins: some test runners pickle the test while it runs.
            vars(self).pop("setUp", None)
            if declared_services(type(self)):
                self._give_clean_state()
            user_set_up()

        vars(self)["setUp"] = set_up
        try:
            yield
        finally:
            vars(self).pop("setUp", None)

    def _give_clean_state(self) -> None:
        environment = vars(type(self)).get(_ENVIRONMENT)
        if environment is None:
            raise DeclarationError(_why_not_set_up(type(self)))
        states = OwnStack()
        states.pin()  # Ctrl-C makes unittest forget it: the session then removes the servers whole
        self.addCleanup(_end, states.close)
        # A short name that every server accepts, different for every run of every test.
        readable = re.sub(r"[^a-zA-Z0-9_]", "_", self._testMethodName)[:_NAME_LENGTH]
        isolation = environment.isolated(f"{readable}-{os.urandom(3).hex()}")
        try:
            handles = states.enter_context(isolation)
        except OrchestratorError as error:
            raise _without_frames(error) from error.__cause__
        vars(self)[HANDLES] = _Handles(handles)
        states.callback(vars(self).pop, HANDLES)


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


def _start(cls: type[ServicesMixin], services: Mapping[str, Service]) -> None:
    from orchestrator.environment import Environment  # declaring must not cost its import

    settings = Settings.from_environment()
    environment = Environment(
        services, test_class=f"{cls.__module__}.{cls.__qualname__}", settings=settings
    )
    cls.addClassCleanup(_stop, cls, environment)
    try:
        environment.start()
    except EngineUnavailableError as error:
        # That one which did answer has gone away is no reason for a green run.
        if settings.skip_without_docker and error.absent and not environment.daemon_answered:
            raise unittest.SkipTest(str(error)) from error
        raise error.with_traceback(None) from error.__cause__
    except OrchestratorError as error:
        # What was wrong is in the message; fifty lines of how we noticed would bury it.
        raise error.with_traceback(None) from error.__cause__
    setattr(cls, _ENVIRONMENT, environment)
    setattr(cls, HANDLES, environment.handles)


def _end(stop: Callable[[], None]) -> None:
    """Undo something; the last error has those before it as notes."""
    try:
        stop()
    except OrchestratorError as error:
        before = error.__context__
        while isinstance(before, OrchestratorError):
            if before is not error.__cause__:
                error.add_note(f"{type(before).__name__}: {before}")
            before = before.__context__
        raise _without_frames(error) from error.__cause__


def _without_frames(error: OrchestratorError) -> OrchestratorError:
    """The error without our tracebacks, which would bury its message."""
    if error.__cause__ is not None:
        error.__cause__.__context__ = error.__cause__.__traceback__ = None
    return error.with_traceback(None)


def _stop(cls: type[ServicesMixin], environment: Environment) -> None:
    for name in (_ENVIRONMENT, HANDLES):
        if name in vars(cls):
            delattr(cls, name)
    _end(environment.stop)


def _check_aliases(cls: type, services: Mapping[str, Service]) -> None:
    seen: dict[object, str] = {}
    for alias, service in services.items():
        check_alias(alias)
        if hasattr(TestCase, alias):
            raise DeclarationError(
                f"{cls.__qualname__}: {alias!r} cannot name a service, because unittest's TestCase "
                "has that name itself"
            )
        for key, why in (
            (alias.lower(), "have one alias; host names do not tell upper from lower case"),
            (service, "are the same declaration; write it out twice for two servers"),
        ):
            if (other := seen.setdefault(key, alias)) != alias:
                raise DeclarationError(f"{cls.__qualname__}: {other!r} and {alias!r} {why}")


def _why_not_set_up(cls: type) -> str:
    for alias, service in declared_services(cls).items():
        if not declared_as(service):
            return (
                f"{cls.__qualname__}.{alias} was given to the class after its services had been "
                f"started. Declare it in the class's body: {alias} = {type(service).__name__}(…)"
            )
    for base in cls.__mro__[: cls.__mro__.index(ServicesMixin)]:
        if "setUpClass" in vars(base):
            return (
                f"{base.__qualname__}.setUpClass does not call super().setUpClass(), so the "
                f"services of {cls.__qualname__} were not started. Call it first."
            )
    return f"The services of {cls.__qualname__} were not started: its setUpClass was not called."


class _Handles(dict[Service, Service]):
    """A test's running services by declaration; they stay here when the test is pickled."""

    def __reduce__(self) -> tuple[type[dict[Service, Service]], tuple[()]]:
        return dict, ()


class _Watched:
    """Stands for a test result, and adds the services' logs to errors and failures as a note."""

    def __init__(self, result: unittest.TestResult, test: ServicesMixin) -> None:
        from orchestrator.environment.diagnosis import Diagnosis

        vars(self).update(_result=result, _test=test, _diagnosis=Diagnosis(), _process=os.getpid())

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._result, name)
        if not name.startswith("add"):
            return attribute

        def report(test: object, *details: Any) -> Any:
            if os.getpid() != self._process:
                return _reported_by_a_child(name, details)
            if name in _REPORTS:
                self._annotate(details[-1])
            return attribute(test, *details)

        return report

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._result, name, value)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[unittest.TestResult]]:
        """Be pickled as the result that this stands for."""
        return _itself, (self._result,)

    def _annotate(self, error: object) -> None:
        if not isinstance(error, tuple) or not isinstance(error[1], Exception):
            return
        handles = vars(self._test).get(HANDLES) or vars(type(self._test)).get(HANDLES)
        if handles:
            text = self._diagnosis.of(handles.values())
            error[1].add_note(f"Services during this test:\n{text}")


def _itself(result: Any) -> Any:
    return result


# A child that a test forks owns nothing here. When it comes back from the test, by `return`,
# `sys.exit` or an exception, it would report the test once more, and run all that come after it.


@contextlib.contextmanager
def _in_one_process() -> Iterator[None]:
    """End whatever leaves the block in another process than it was entered in."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            _end_child(None)


def _reported_by_a_child(name: str, details: Sequence[Any]) -> None:
    error = details[-1] if details else None
    goes_on = name == "addDuration" or (name == "addSubTest" and error is None)
    if not goes_on:
        _end_child(error[1] if isinstance(error, tuple) else None)


def _end_child(error: BaseException | None) -> NoReturn:
    """End a forked child with the status that it asked for, as multiprocessing does."""
    status, message = _FELL_THROUGH, "a forked child came back from its test and was ended\n"
    if isinstance(error, SystemExit):
        code = error.code
        status = code if isinstance(code, int) else int(code is not None)
        message = f"{code}\n" if isinstance(code, str) else ""
    elif error is not None:
        status, message = 1, "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        os.write(2, message.encode(errors="backslashreplace"))
    os._exit(status & 0xFF)
