"""Loading the tests, in the worker, and cutting them into units."""

from __future__ import annotations

import inspect
import os
import sys
import unittest
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import services
from orchestrator.runner.unit import Test, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.runner.messages import Setup

_MODULE_FIXTURES: Final = ("setUpModule", "tearDownModule")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A unit with its live tests, in collected order; classes are never interleaved."""

    unit: Unit
    tests: tuple[Any, ...]


def collect(setup: Setup) -> dict[str, Loaded]:
    """Load what the arguments name, the way unittest does, as units by key.

    Raises:
        Exception: Whatever the loader raises; a module that cannot be imported is usually no
            exception but a failing test, as in unittest.
    """
    grouped: dict[str, list[Any]] = defaultdict(list)
    for test in _load(setup):
        grouped[_key(test)].append(test)
    return {key: _loaded(key, tests) for key, tests in grouped.items()}


def owner_of(cls: type) -> str:
    """A class as reports name it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _load(setup: Setup) -> Iterator[Any]:
    loader = unittest.TestLoader()
    if setup.keep:
        loader.testNamePatterns = list(setup.keep)
    if not setup.names:
        yield from _flat(loader.discover(setup.start, setup.pattern, setup.top))
    for name in setup.names:
        yield from _named(loader, name, pattern=setup.pattern)


def _named(loader: unittest.TestLoader, name: str, *, pattern: str) -> Iterator[Any]:
    """What a name stands for; in a folder unittest would find nothing, and be content."""
    folder = Path(name)
    if name.isidentifier() or not folder.is_dir():
        tests = list(_flat(loader.loadTestsFromName(_dotted(name))))
        yield from tests
        folder = Path(name.replace(".", os.sep))
        if tests or not folder.is_dir():
            return
    yield from _flat(loader.discover(str(folder), pattern, str(_top_of(folder))))


def _top_of(folder: Path) -> Path:
    """The folder to import from: the first one upwards that is no package."""
    while (folder / "__init__.py").is_file():
        folder = folder.resolve().parent
    return folder


def _dotted(name: str) -> str:
    """A path of a Python file as the module's name; anything else unchanged."""
    path = Path(name)
    if not (path.is_file() and name.lower().endswith(".py")):
        return name
    relative = os.path.relpath(path)
    if relative.startswith(os.pardir):
        return name
    return os.path.normpath(relative)[: -len(".py")].replace(os.sep, ".")


def _flat(suite: Any) -> Iterator[Any]:
    try:
        members: Iterable[Any] = iter(suite)
    except TypeError:
        yield suite
        return
    for member in members:
        yield from _flat(member)


def _key(test: Any) -> str:
    cls = type(test)
    if cls.__module__ == "unittest.loader":  # one class stands for every failed import
        return _id(test)
    module = sys.modules.get(cls.__module__)
    if any(hasattr(module, fixture) for fixture in _MODULE_FIXTURES):
        return cls.__module__
    return owner_of(cls)


def _loaded(key: str, tests: Sequence[Any]) -> Loaded:
    """Bring the tests of each class together, so that its fixtures run once."""
    classes = list(dict.fromkeys(type(test) for test in tests))
    tests = sorted(tests, key=lambda test: classes.index(type(test)))  # stable
    unit = Unit(
        key=key,
        tests=tuple(map(_described, tests)),
        files={owner_of(cls): path for cls in classes if (path := _file(cls))},
        services={owner_of(cls): declared for cls in classes if (declared := services.of(cls))},
    )
    return Loaded(unit=unit, tests=tuple(tests))


def _described(test: Any) -> Test:
    return Test(id=_id(test), owner=owner_of(type(test)), title=title_of(test))


def title_of(test: Any) -> str:
    """A test in unittest's words: its name, and its docstring's first line below."""
    try:
        summary = test.shortDescription()
    except Exception:  # noqa: BLE001 - a broken description must not lose the test
        summary = None
    return f"{test}\n{summary}" if summary else str(test)


def _id(test: Any) -> str:
    return str(test.id()) if hasattr(test, "id") else repr(test)


def _file(cls: type) -> str | None:
    try:
        path = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None
    if path is None:
        return None
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
