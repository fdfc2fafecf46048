"""Loading the tests, in the worker, and cutting them into units; what their services are."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import os
import re
import sys
import textwrap
import unittest
import weakref
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.runner.results import Test, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.runner.options import Options

_MODULE_FIXTURES: Final = ("setUpModule", "tearDownModule")
_TO_SUPER: Final = re.compile(r"super\([\w, ]*\)\.setUpClass\(\)")
_HERE: Final = Path.cwd()  # a test may go elsewhere, and may remove that
_PLAIN_DECORATORS: Final = ("classmethod", "override", "typing.override")
# How unittest's suite runs its tests, as it was before anybody could replace a part.
_USUAL: Final = {
    name: getattr(unittest.TestSuite, name)
    for name in (
        "run",
        "__call__",
        "_handleClassSetUp",
        "_handleModuleFixture",
        "_handleModuleTearDown",
        "_tearDownPreviousClass",
        "_createClassOrModuleLevelException",
    )
}


class PlainSuites:
    """The suites whose tests are run one by one: a test may add more to one that somebody holds."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[unittest.TestSuite], int]] = []

    def flat(self, suite: Any) -> Iterator[Any]:
        """The tests of a suite; one that overrides how its tests are run stays whole."""
        if not _runs_as_usual(suite):
            yield suite
            return
        for part in suite:
            yield from self.flat(part)
        self._known.append((weakref.ref(suite), len(_parts(suite))))

    def added(self) -> list[Any]:
        """What has been added to them since they were collected, or since the last time."""
        more: list[Any] = []
        held = [(suite, length) for ref, length in self._known if (suite := ref()) is not None]
        for suite, length in held:
            more += _parts(suite)[length:]
        self._known = [(weakref.ref(suite), len(_parts(suite))) for suite, _ in held]
        return more


@dataclass
class Group:
    """The tests of a unit; those of one class stand together, so that its fixtures run once."""

    key: str
    tests: list[Any]

    @cached_property
    def unit(self) -> Unit:
        """The unit as the parent knows it."""
        first = self.tests[0]
        classes = dict.fromkeys(map(type, _leaves(first) if is_suite(first) else self.tests))
        tests = tuple(map(described, self.tests))
        by_owner = {known.owner: test for known, test in zip(tests, self.tests, strict=True)}
        files = {owner: path for owner, test in by_owner.items() if (path := _file(test))}
        services = {class_name(cls): it for cls in classes if (it := memory_of_services(cls))}
        ahead = self.key in services and can_start_ahead(type(first))
        return Unit(key=self.key, tests=tests, files=files, services=services, ahead=ahead)


def collect(options: Options, suites: PlainSuites) -> list[Group]:
    """Load what the arguments name, the way unittest does, as the tests of units.

    A suite that overrides how its tests are run is a unit, and counts as one test; ``suites`` gets
    to know the others.

    Raises:
        Exception: Whatever the loader raises; a module that cannot be imported is usually no
            exception but a failing test, as in unittest.
    """
    loader = unittest.TestLoader()
    if options.keep:
        loader.testNamePatterns = list(options.keep)
    tests: Iterator[Any]
    if options.names:
        named = (_named(loader, name, options.pattern, suites) for name in options.names)
        tests = itertools.chain.from_iterable(named)
    else:
        tests = suites.flat(loader.discover(options.start, options.pattern, options.top))
    found: dict[str, dict[type, list[Any]]] = defaultdict(lambda: defaultdict(list))
    keys: dict[type, str] = {}
    for test in tests:
        cls = type(test)
        key = keys.get(cls) or _key(test, found)
        if key in (class_name(cls), cls.__module__) and not is_suite(test):
            keys[cls] = key  # of all its tests
        found[key][cls].append(test)
    return [Group(key, list(itertools.chain(*it.values()))) for key, it in found.items()]


def _named(
    loader: unittest.TestLoader, name: str, pattern: str, suites: PlainSuites
) -> Iterator[Any]:
    """What a name stands for; in a folder unittest would find nothing, and be content.

    What can be imported is: tests make folders that are called like a module, such as Twisted's.
    """
    folder = Path(name)
    if not (folder.is_dir() and (len(folder.parts) != 1 or _unknown(name))):
        tests = list(suites.flat(loader.loadTestsFromNames([_dotted(name)])))
        yield from tests
        folder = Path(name.replace(".", os.sep))
        module = sys.modules.get(name)
        says_itself = hasattr(module, "load_tests") or not hasattr(module, "__path__")
        if tests or says_itself or not folder.is_dir():
            return
    top = folder  # to import from: the first one upwards that is no package
    while (top / "__init__.py").is_file():
        top = top.resolve().parent
    yield from suites.flat(loader.discover(str(folder), pattern, str(top)))


def _unknown(name: str) -> bool:
    """Whether nothing that can be imported has a name, not even its first part."""
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is None
    except (ImportError, ValueError):
        return False


def _dotted(name: str) -> str:
    """A path of a Python file as the module's name; anything else unchanged."""
    inside = not (relative := os.path.relpath(name)).startswith(os.pardir)
    if inside and name.lower().endswith(".py") and Path(name).is_file():
        return relative[: -len(".py")].replace(os.sep, ".")
    return name


def _key(test: Any, taken: Mapping[str, object]) -> str:
    cls = type(test)
    if is_suite(test):
        names = (f"{class_name(cls)}{f' {n}' if n > 1 else ''}" for n in itertools.count(1))
        return next(name for name in names if name not in taken)
    if cls.__module__ == "unittest.loader":  # one class stands for every failed import
        return id_of(test)
    module = sys.modules.get(cls.__module__)
    if any(hasattr(module, fixture) for fixture in _MODULE_FIXTURES):
        return cls.__module__
    return owner_of(test)


# Suites


def is_suite(test: Any) -> bool:
    """Whether unittest takes something for a suite."""
    kind = type(test)
    if getattr(kind, "__iter__", None) is None and not hasattr(kind, "__getitem__"):
        return False  # an exception takes longer
    try:
        iter(test)
    except TypeError:
        return False
    return True


def _runs_as_usual(suite: Any) -> bool:
    return isinstance(suite, unittest.TestSuite) and all(
        getattr(type(suite), name) is usual and name not in vars(suite)
        for name, usual in _USUAL.items()
    )


def _leaves(test: Any) -> Iterator[Any]:
    """The tests in a suite."""
    if not is_suite(test):
        yield test
        return
    for part in _parts(test):
        yield from _leaves(part)


def _parts(suite: Any) -> Sequence[Any]:
    """What is in a suite, found without running code of its own."""
    parts: Sequence[Any] = getattr(suite, "_tests", ())
    return parts


# Tests in the words of reports


def described(test: Any) -> Test:
    """A test as reports know it."""
    return Test(id=id_of(test), owner=owner_of(test), title=title_of(test))


def id_of(test: Any) -> str:
    """The name by which a test is known: a suite's is its class."""
    if is_suite(test) or not hasattr(test, "id"):
        return owner_of(test)
    try:
        return str(test.id())
    except Exception:  # noqa: BLE001 - some can tell only while they run
        return _usual_id(test)


def name_of(test: Any) -> str:
    """A test in unittest's words."""
    try:
        return class_name(type(test)) if is_suite(test) else str(test)
    except Exception:  # noqa: BLE001 - the same
        id_ = _usual_id(test)
        return f"{id_.rpartition('.')[2]} ({id_})"


def class_name(cls: type) -> str:
    """A class as reports name it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def owner_of(test: Any) -> str:
    """What reports group a test by: its class, and for doctests, which share one, the file."""
    name = class_name(type(test))
    source = _source(test)
    return f"{name} ({source})" if source else name


def title_of(test: Any) -> str:
    """A test in unittest's words: its name, and its docstring's first line below."""
    try:
        summary = "" if is_suite(test) else test.shortDescription()
    except Exception:  # noqa: BLE001 - a broken description must not lose the test
        summary = ""
    name = name_of(test)
    return f"{name}\n{summary}" if summary else name


def _usual_id(test: Any) -> str:
    return f"{class_name(type(test))}.{getattr(test, '_testMethodName', 'runTest')}"


def _source(test: Any) -> str:
    """The file of a doctest, or the module of a function; for other tests, nothing."""
    if type(test).__module__ == "doctest" and hasattr(test, "_dt_test"):
        return _relative(str(test._dt_test.filename))  # noqa: SLF001 - there is no public way
    if type(test) is unittest.FunctionTestCase:
        return str(test._testFunc.__module__)  # type: ignore[attr-defined]  # noqa: SLF001 - the same
    return ""


def _file(test: Any) -> str | None:
    if type(test).__module__ == "doctest":
        return _source(test)
    path = getattr(sys.modules.get(type(test).__module__), "__file__", None)
    return None if path is None else _relative(path)


def _relative(path: str) -> str:
    relative = os.path.relpath(_HERE / path, _HERE)
    return path if relative.startswith(os.pardir) else relative


# Services


def memory_of_services(cls: type) -> tuple[int, ...]:
    """The bytes that each service of a class may use; reading a declaration starts nothing."""
    if (mixin := _mixin_of(cls)) is None or getattr(cls, "__unittest_skip__", False):
        return ()
    try:
        services = mixin.declared_services(cls).values()
    except OrchestratorError:  # of a Compose file; the class says so when it starts
        return ()
    from orchestrator.services.service import memory_needed  # who has services has loaded it

    return tuple(map(memory_needed, services))


def can_start_ahead(cls: type) -> bool:
    """Whether the services of a class can be started before its fixture begins.

    Nothing of the class's own may come before them: where it has a ``setUpClass``, that begins with
    ``super().setUpClass()``. What the classes of a process share is started with the first of them;
    a migration that each process runs for itself would run once more, however long that takes.
    """
    if not memory_of_services(cls):
        return False
    mixin = _mixin_of(cls)
    services = mixin.declared_services(cls).values()
    scopes = {service.scope for service in services}
    own = cls.__mro__[: cls.__mro__.index(mixin.ServicesMixin)]
    return (
        "class" in scopes
        and "process" not in scopes
        and not any(map(_migrates_in_each_process, services))
        and all(_begins_with_super(vars(base).get("setUpClass")) for base in own)
    )


def _migrates_in_each_process(service: Any) -> bool:
    """Whether classes of one process share what a migration has made, and those of others not."""
    databases = getattr(service, "databases", ())
    migrations = [*(databases.values() if isinstance(databases, Mapping) else ())]
    migrations.append(getattr(service, "migrate", None))
    return not getattr(service, "fingerprint", ()) and any(map(callable, migrations))


def _begins_with_super(method: Any) -> bool:
    if method is None:
        return True

    try:
        [function] = ast.parse(textwrap.dedent(inspect.getsource(method.__func__))).body
    except (AttributeError, TypeError, ValueError, OSError, SyntaxError):
        return False
    if not isinstance(function, ast.FunctionDef) or hasattr(method.__func__, "__wrapped__"):
        return False
    plain = all(ast.unparse(it) in _PLAIN_DECORATORS for it in function.decorator_list)
    behind = ast.get_docstring(function) is not None
    return plain and any(_TO_SUPER.fullmatch(ast.unparse(it)) for it in function.body[behind:][:1])


def _mixin_of(cls: type) -> Any:
    """The module of `ServicesMixin`, if a class is one; plain suites do not pay for its import."""
    mixin = sys.modules.get("orchestrator.mixin")
    return mixin if mixin is not None and issubclass(cls, mixin.ServicesMixin) else None


def services_of(cls: type) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a report tells about a class's running services, and what no log may show."""
    mixin = _mixin_of(cls)
    handles = vars(cls).get(mixin.HANDLES) or {} if mixin else {}
    facts: dict[str, str] = {}
    secrets: list[str] = []
    for alias, declared in mixin.declared_services(cls).items() if handles else ():
        if service := handles.get(declared):
            facts[f"{alias}.image"] = str(service.image)
            facts[f"{alias}.container"] = service.container_id[:12]
            secrets += service.secrets()
    return facts, tuple(secrets)
