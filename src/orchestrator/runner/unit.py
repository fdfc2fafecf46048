"""What was collected: tests, the units they run in, and the services their classes declare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A service that a class declares.

    Attributes:
        memory: Bytes it may use, or usually does where the declaration sets no limit.
    """

    alias: str
    scope: str
    memory: int


@dataclass(frozen=True, kw_only=True)
class Test:
    """A collected test.

    Attributes:
        owner: Its class, as ``module.Class``; the class is what reports group by.
        title: ``str(test)``, and its docstring's first line below it where there is one.
    """

    id: str
    owner: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker runs in one piece: a class, a module with module fixtures, or a suite.

    Attributes:
        key: ``module.Class`` or ``module``.
        files: The source file of each class, relative to the working directory where possible.
        services: The services each class declares.
    """

    key: str
    tests: tuple[Test, ...]
    files: dict[str, str]
    services: dict[str, tuple[Declared, ...]]
