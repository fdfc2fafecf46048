"""`LateEngine`: what a plain class asks of the daemon, without docker-py."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import (
    Label,
    container_state,
    gateway_of,
    image_info,
    product_of,
    short_name,
)
from orchestrator.engine.create import HOST_GATEWAY, container_body, created_id
from orchestrator.engine.endpoint import published_address
from orchestrator.services.once import importing_much, locked_property
from orchestrator.sessions.bare.http_reaper import Dialer, exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.engine import Endpoint
    from orchestrator.engine.api import ContainerSpec, ContainerState, ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.endpoint import PublishedAddress
    from orchestrator.engine.images import Images
    from orchestrator.settings import Settings
else:
    Engine = Images = object

T = TypeVar("T")
_DONE: Final = (200, 201, 204)
_PATIENCE: Final = 1.0  # seconds for a daemon's version; a slow one is docker-py's to wait for


class LateEngine(Engine):
    """An `Engine` that imports docker-py, which takes 0.1 s, when that is needed.

    What each start asks of a Docker daemon on this machine is asked without it. All else is asked
    by it, and so is again what was refused: its errors tell why.
    """

    def __init__(self, settings: Settings, endpoint: Endpoint | None = None) -> None:
        self.endpoint = endpoint or find_endpoint()
        self.timeout = settings.engine_timeout
        self._settings = settings
        self._about: Any = None  # its version
        self._is_known = False
        self.images = _Images(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    @locked_property
    def made(self) -> Engine:
        """The engine with docker-py, once something was asked of it."""
        with importing_much():
            return connect(self._settings, endpoint=self.endpoint, about=self._about)

    @property
    def _is_made(self) -> bool:
        return "made" in vars(self)

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered, if to the process that has servers there."""
        return self._is_known or bool(self._about) or (self._is_made and self.made.answered)

    def know(self, told: Mapping[str, str]) -> None:
        """Know where ports are, as another process said that has servers there."""
        vars(self).update(told)
        self._is_known = True

    def close(self) -> None:
        """Close every connection to the daemon."""
        if self._is_made:
            self.made.close()

    @locked_property
    def host(self) -> str:
        """The address at which published ports are reached from this process."""
        return self._published.host

    @locked_property
    def bind_address(self) -> str:
        """The address on the daemon's machine to publish ports on."""
        return self._published.bind_address

    @locked_property
    def _published(self) -> PublishedAddress:
        def bridge() -> str | None:
            with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
                if self.endpoint.socket:
                    return gateway_of(self._ask("GET", "/networks/bridge", seconds=_PATIENCE))
            return self.made.bridge_gateway()

        return published_address(self.endpoint, bridge=bridge, host=self._settings.host)

    @locked_property
    def test_process(self) -> str:
        """The address at which containers reach this process."""
        return HOST_GATEWAY if self._is_plain else self.made.test_process

    def create_network(self, name: str, /, **options: Any) -> str:
        """Create a bridge network, and return its id."""
        wanted = {
            "Name": name,
            "Driver": "bridge",
            "Labels": {**options["labels"], Label.NAME: name},
            "CheckDuplicate": True,
            "Internal": options.get("internal", False),
        }
        doing, path = f"create network {name}", "/networks/create"
        made = None
        if options.get("subnet") is None:
            made = self.ask(doing, "POST", path, body=wanted, read=lambda it: str(it["Id"]))
        return made or self.made.create_network(name, **options)

    def create_volume(self, name: str, /, *, labels: Mapping[str, str]) -> None:
        """Create an empty volume."""
        wanted, doing = {"Name": name, "Labels": {**labels, Label.NAME: name}}, "create volume"
        path = "/volumes/create"
        if not self.ask(f"{doing} {name}", "POST", path, body=wanted, read=lambda _: True):
            self.made.create_volume(name, labels=labels)

    def create_container(self, spec: ContainerSpec, /) -> str:
        """Create a container and return its id; what the engine cannot do is a warning."""
        doing, path = f"create container {spec.name}", f"/containers/create?name={quote(spec.name)}"
        made, options = None, spec.options
        if not (options.read_only or options.platform):
            body = container_body(spec, hosts=options.extra_hosts)
            made = self.ask(doing, "POST", path, body=body, read=created_id)
        return made or self.made.create_container(spec)

    def start_container(self, container: str, /) -> None:
        """Start a created or stopped container."""
        doing, path = (
            f"start container {short_name(container)}",
            f"/containers/{quote(container)}/start",
        )
        if not self.ask(doing, "POST", path, read=lambda _: True):
            self.made.start_container(container)

    def container(self, container: str, /) -> ContainerState | None:
        """The container now, or None when it is gone."""
        doing, path = (
            f"inspect container {short_name(container)}",
            f"/containers/{quote(container)}/json",
        )
        return self.ask(doing, "GET", path, read=container_state) or self.made.container(container)

    def ask(
        self, doing: str, method: str, path: str, *, body: object = None, read: Callable[[Any], T]
    ) -> T | None:
        """Read what the daemon answers; None where docker-py has to ask it.

        Raises:
            EngineError: It did not answer, or cannot be understood.
        """
        if self._is_made or not self._is_plain:
            return None
        try:
            answer = self._ask(method, path, body=body, seconds=self.timeout)
            return read(answer) if answer is not None else None
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise self.made.translated(error, doing) from None

    @locked_property
    def _is_plain(self) -> bool:
        """Whether it is a Docker daemon on this machine, in networks that are this machine's."""
        if not self.endpoint.socket or self.host != self.bind_address:
            return False
        try:
            about = self._ask("GET", "/version", seconds=_PATIENCE)
        except (OSError, ValueError):
            return False
        if not about or product_of(about) != "Docker" or "rootlesskit" in str(about):
            return False
        self._about = about
        return True

    def _ask(self, method: str, path: str, *, body: object = None, seconds: float) -> Any:
        """What the daemon answers; None when it refuses."""
        sent = b"" if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + seconds
        [answer] = exchange(Dialer(self.endpoint.way), [(method, path, sent)], deadline=deadline)
        if not answer.status:
            late = time.monotonic() > deadline
            raise TimeoutError("timed out") if late else ConnectionResetError(answer.body.decode())
        return json.loads(answer.body or b"{}") if answer.status in _DONE else None


class _Images(Images):
    """The same of its images: one is found without docker-py."""

    def __init__(self, engine: LateEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine.made.images, name)

    def find(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, or None when it is not on this machine."""
        doing, path = f"inspect image {reference}", f"/images/{quote(reference)}/json"
        found = self._engine.ask(doing, "GET", path, read=image_info)
        return found or self._engine.made.images.find(reference)
