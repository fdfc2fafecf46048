"""`Compose`: the services of a Compose file, on a test class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from orchestrator.errors import DeclarationError, did_you_mean
from orchestrator.services.container import check_allow
from orchestrator.services.hooks import enter_alone, leave_alone
from orchestrator.services.once import locked_property
from orchestrator.services.options import Scope, is_local_path, is_positive, is_words

if TYPE_CHECKING:
    from orchestrator.services.container import Container

_FILES: Final = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


class Compose:
    """The services of a Compose file: each runs as a `Container` of the test class.

    ::

        class ShopTest(ServicesMixin, unittest.TestCase):
            stack = Compose("compose.yaml", services=["web"])

            def test_front_page(self):
                url = self.stack["web"].url

    They find one another by their names in the file, and images come from images.lock. What a test
    should not depend on is left out: host ports are chosen freely (``port_of``), and volumes are
    the class's; what is bound from this machine is copied, from the project's folder (as for
    `Container`'s ``mounts``). What cannot be kept is refused, with file, line and key.

    The file is read when the class starts: importing a test module does not touch the disk.

    Args:
        file: The file, or the folder that it is in.
        services: Those to run, with what they depend on; all that have no profile without.
        scope: How long they live, as of any service.
        startup_timeout: Seconds each has to become ready.
        allow: Absolute paths outside of the project's folder that may be copied from.

    Raises:
        DeclarationError: An argument cannot be used.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        services: Sequence[str] | None = None,
        scope: Scope = "class",
        startup_timeout: float = 60.0,
        allow: Sequence[str | Path] = (),
    ) -> None:
        some = services is None or (is_words(services) and len(services) > 0)
        for name, value, good, expected in (
            ("file", file, is_local_path(file), "the path of a file"),
            ("services", services, some, "a list of names"),
            ("scope", scope, scope in get_args(Scope), ", ".join(get_args(Scope))),
            ("startup_timeout", startup_timeout, is_positive(startup_timeout), "seconds, above 0"),
        ):
            if not good:
                raise DeclarationError(
                    f"Compose({name}={value!r}) cannot be used: expected {expected}"
                )
        check_allow(allow)
        self._file = Path(file)
        self._wanted = services
        self._options: dict[str, Any] = {
            "scope": scope,
            "startup_timeout": startup_timeout,
            "allow": allow,
        }

    @locked_property
    def _services(self) -> Mapping[str, Container]:
        """The declarations of the services, by name; reads the file the first time."""
        from orchestrator.services.compose.project import read_project
        from orchestrator.services.compose.service import to_containers

        return to_containers(read_project(self._found(), self._wanted), **self._options)

    def _found(self) -> Path:
        if not self._file.is_dir():
            return self._file
        for name in _FILES:
            if (self._file / name).is_file():
                return self._file / name
        raise DeclarationError(f"{self._file} has no {', '.join(_FILES)}")

    def __enter__(self) -> Mapping[str, Container]:
        """Start the services of the file alone, where no class declares them: name to handle."""
        services = self._services
        handles = enter_alone(self, services)
        return {name: handles[service] for name, service in services.items()}

    def __exit__(self, *error: object) -> None:
        leave_alone(self, *error)

    def __get__(
        self, instance: object | None, owner: type | None = None
    ) -> Mapping[str, Container]:
        return _Stack(self, instance, owner)


def services_of(compose: Compose) -> Mapping[str, Container]:
    """The declarations of a stack's services, by name; reads the file the first time."""
    return compose._services  # noqa: SLF001 - what only we may read


class _Stack(Mapping[str, "Container"]):
    """The services as seen from a test or its class: running ones where there are."""

    def __init__(self, compose: Compose, instance: object | None, owner: type | None) -> None:
        self._compose = compose
        self._instance = instance
        self._owner = owner

    def __getitem__(self, name: str) -> Container:
        services = services_of(self._compose)
        if name not in services:
            raise DeclarationError(
                f"{self._compose._file} runs no service {name!r} here"  # noqa: SLF001
                f"{did_you_mean(name, services, otherwise='it runs')}"
            )
        return services[name].__get__(self._instance, self._owner)

    def __contains__(self, name: object) -> bool:
        return name in services_of(self._compose)

    def __iter__(self) -> Iterator[str]:
        return iter(services_of(self._compose))

    def __len__(self) -> int:
        return len(services_of(self._compose))
