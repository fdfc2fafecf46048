"""`ServicesMixin`: starts a test class's services, and gives each of its tests clean state."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import unittest
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn
from unittest import TestCase

from orchestrator.environment import (
    ENVIRONMENT,
    check_declarations,
    declared_services,
    end,
    environment_of,
    plainly,
    start,
    started_ahead,
    unique_name,
)
from orchestrator.errors import DeclarationError, missing_attribute
from orchestrator.services.hooks import HANDLES, declared_as
from orchestrator.services.once import OwnStack
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from orchestrator.environment.environment import Environment

    _Base = TestCase
else:
    _Base = object

_REPORTS: Final = ("addError", "addFailure", "addSubTest")
REPORTS: Final = "_orchestrator_reports"
"""What a run has that tells at its end what would not go."""
_WITHOUT: Final = "_orchestrator_without_services"  # what a class has that declares none
_FELL_THROUGH: Final = 70  # the exit status of a child that returned from its test
__unittest = __tracebackhide__ = True  # unittest and pytest leave our frames out of tracebacks


class _EveryTestIsSkipped:
    """Whether every test method of a class is skipped: unittest then runs no fixture of it.

    Asked for when the class runs, because class decorators still add tests to it. A class that is
    skipped itself has an attribute of its own in place of this.
    """

    def __get__(self, instance: object, cls: type[TestCase]) -> bool:
        if ENVIRONMENT in vars(cls):  # each test of a running class asks, too
            return False
        skipped = (getattr(test, "__unittest_skip__", False) for test in _tests(cls))
        return bool(next(skipped, False)) and all(skipped)


class _ReasonToSkip:
    """The reason, where all tests have the same; else unittest takes that of each test."""

    def __get__(self, instance: object, cls: type[TestCase]) -> str:
        reasons = (getattr(test, "__unittest_skip_why__", "") for test in _tests(cls))
        first = next(reasons, "")
        return str(first) if all(reason == first for reason in reasons) else ""


def _tests(cls: type[TestCase]) -> Iterator[object]:
    """The test methods of a class, one by one: each test asks, and the first may be enough."""
    loader = unittest.defaultTestLoader
    names: Iterable[str] = (
        name
        for base in cls.__mro__
        for name in vars(base)
        if name.startswith(loader.testMethodPrefix)
    )
    if loader.testNamePatterns:  # of ``-k``
        names = loader.getTestCaseNames(cls)
    return filter(callable, (getattr(cls, name, None) for name in names))


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
        check_declarations(cls, ServicesMixin)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Say which service was probably meant."""
            others = getattr(super(), "__getattr__", None)
            return missing_attribute(self, name) if others is None else others(name)

    @classmethod
    def setUpClass(cls) -> None:
        """Start the class's services; return when all of them are ready.

        Raises:
            OrchestratorError: They could not be started; nothing of them is left.
            unittest.SkipTest: There is no daemon, and ``ORCHESTRATOR_SKIP_WITHOUT_DOCKER=1``.
        """
        if declared_services(cls):
            environment = started_ahead(cls) or environment_of(cls)
            cls.addClassCleanup(_stop, cls, environment)
            if not environment.started:
                start(environment)
            setattr(cls, ENVIRONMENT, environment)
            setattr(cls, HANDLES, environment.handles)
            if environment.keeps_failed:
                _watch_tear_down(cls, environment)
        super().setUpClass()
        _check_in_place(cls)

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test with clean state; what fails gets a note with its services' logs."""
        if not _has_services(type(self)):
            return super().run(result)
        _report_at_the_end(result)
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
            if _has_services(type(self)):
                self._give_clean_state()
            user_set_up()

        vars(self)["setUp"] = set_up
        try:
            yield
        finally:
            vars(self).pop("setUp", None)

    def _give_clean_state(self) -> None:
        environment = vars(type(self)).get(ENVIRONMENT)
        if environment is None:
            raise DeclarationError(_why_not_set_up(type(self)))
        _check_in_place(type(self))
        states = OwnStack()
        states.pin()  # Ctrl-C makes unittest forget it: the session then removes the servers whole
        self.addCleanup(end, states.close)
        isolation = environment.isolated(unique_name(self._testMethodName))
        vars(self)[HANDLES] = _Handles(plainly(lambda: states.enter_context(isolation)))
        states.callback(vars(self).pop, HANDLES)


def _watch_tear_down(cls: type[ServicesMixin], environment: Environment) -> None:
    """Note when ``tearDownClass`` fails: unittest does not tell the clean-ups after it."""
    tear_down, own = cls.tearDownClass, vars(cls).get("tearDownClass")

    def watched() -> None:
        try:
            tear_down()
        except Exception as error:
            environment.failed(error)
            raise

    def restore() -> None:
        if own is None:
            del cls.tearDownClass
        else:
            setattr(cls, "tearDownClass", own)  # noqa: B010 - it is a classmethod

    setattr(cls, "tearDownClass", staticmethod(watched))  # noqa: B010 - the same
    cls.addClassCleanup(restore)


def _stop(cls: type[ServicesMixin], environment: Environment) -> None:
    error = sys.exc_info()[1]  # pytest calls this while a fixture's error is on its way
    failing = isinstance(error, Exception) and not isinstance(error, unittest.SkipTest)
    if (
        failing
        or (getattr(cls, "_classSetupFailed", False) and not _has_skipped_itself(cls))
        or getattr(cls, "tearDown_exceptions", ())
    ):
        environment.failed(error if failing else None)
    for name in (ENVIRONMENT, HANDLES):
        if name in vars(cls):
            delattr(cls, name)
    end(partial(environment.stop, wait=False))


def _has_skipped_itself(cls: type) -> bool:
    """Whether ``setUpClass`` ended in a skip, of which unittest says that it failed.

    The error is gone by now; the result has it, whose only way to here is unittest's frame.
    """
    frame: Any = sys._getframe()  # noqa: SLF001 - there is no other
    while frame is not None and frame.f_code.co_name != "_handleClassSetUp":
        frame = frame.f_back
    skipped = getattr(frame and frame.f_locals.get("result"), "skipped", ())
    name = f"setUpClass ({cls.__module__}.{cls.__qualname__})"
    return any(str(test) == name for test, _ in skipped)


def _report_at_the_end(result: Any) -> None:
    """Have the end of the run wait for what is being removed, and tell what would not go.

    That is pytest's session, or unittest's result; else the process tells it on stderr at its end.
    """
    session: Any = getattr(result, "session", None)
    of_pytest = callable(getattr(session, "addfinalizer", None))
    run = session if of_pytest else result
    if getattr(run, REPORTS, False) or not hasattr(run, "__dict__"):
        return
    if of_pytest:
        run.addfinalizer(_end_of_pytest)
    elif callable(stop := getattr(run, "stopTestRun", None)):
        vars(run)["stopTestRun"] = partial(_end_of_unittest, run, stop)  # it can be pickled
    vars(run)[REPORTS] = True


def _end_of_pytest() -> None:
    errors = list(_left_behind().values())
    for error in errors[1:]:
        errors[0].add_note(str(error))
    for error in errors[:1]:
        raise error


def _end_of_unittest(result: Any, stop: Callable[[], None]) -> None:
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
        for test_class, error in _left_behind().items():
            fixture: Any = unittest.suite._ErrorHolder(f"tearDownClass ({test_class})")  # type: ignore[attr-defined]  # noqa: SLF001 - as unittest reports it
            result.addError(fixture, (type(error), error, None))
    stop()


def _left_behind() -> Mapping[str, Exception]:
    from orchestrator.environment.context import left_behind  # declaring must not load it

    return left_behind()


def _has_services(cls: type) -> bool:
    """Whether a class has some; each test asks, but only the first looks through all names."""
    if ENVIRONMENT in vars(cls) or _WITHOUT in vars(cls):
        return ENVIRONMENT in vars(cls)
    if found := bool(declared_services(cls)):
        return found
    setattr(cls, _WITHOUT, True)
    return False


def _attribute(cls: type, name: str) -> object:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _check_in_place(cls: type) -> None:
    """Raise DeclarationError where something has replaced a service on the class since."""
    environment = vars(cls).get(ENVIRONMENT)
    services = environment.services.items() if environment else ()
    elsewhere = [(alias, it) for alias, it in services if _attribute(cls, alias) is not it]
    declared = declared_services(cls) if elsewhere else {}
    for alias, service in elsewhere:
        if declared.get(alias) is not service:  # else it is of a Compose file
            found = type(getattr(cls, alias, None)).__name__
            raise DeclarationError(
                f"{cls.__qualname__}.{alias}, a declared {type(service).__name__}, has been "
                f"replaced by {found} since the class's start; give one of them another name"
            )


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
            if name in _REPORTS and details[-1] is not None:
                self._annotate(details[-1])
            return attribute(test, *details)

        return report

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._result, name, value)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[unittest.TestResult]]:
        """Be pickled as the result that this stands for."""
        return _itself, (self._result,)

    def _annotate(self, error: object) -> None:
        if not isinstance(error, tuple) or isinstance(error[1], KeyboardInterrupt):
            return  # the latter is no failure; SystemExit and CancelledError are
        if environment := vars(type(self._test)).get(ENVIRONMENT):
            environment.failed(error[1])
        handles = vars(self._test).get(HANDLES) or vars(type(self._test)).get(HANDLES)
        if handles and (text := self._diagnosis.of(handles.values())):
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
