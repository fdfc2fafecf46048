"""A service: a frozen value, `Hooks` by which its class describes a server, and its container."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, cast, dataclass_transform

from orchestrator.engine.api import RunOptions
from orchestrator.errors import DeclarationError, did_you_mean, missing_attribute
from orchestrator.services import options
from orchestrator.services.once import OwnStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from orchestrator.engine.api import Copy
    from orchestrator.engine.docker import Engine
    from orchestrator.probes import Probe
    from orchestrator.sessions import Snapshot

HANDLES: Final = "_orchestrator_handles"
"""Where a test class, and each test, keeps its running services by declaration."""
SNAPSHOT: Final = "/orchestrator/snapshot"
"""Where a server that starts from a snapshot finds it."""
SNAPSHOT_DATA: Final = f"{SNAPSHOT}/data.tar"
"""What is in it: a tar, as a file costs less to read than a thousand."""
PART: Final = "run_"
"""What the names of the parts begin with that classes have of shared servers."""
_DECLARED_AS: Final = "_declared_as"
_ALONE: Final = "_entered_alone"
# Docker's own list without those that image entry points do not use: AUDIT_WRITE, MKNOD, NET_RAW
# (forged packets on the class's network), SETFCAP.
CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
    *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
AnyDeclaration = TypeVar("AnyDeclaration", bound="Declaration")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume of the class's, or of the test's with that scope.

    Attributes:
        key: What services that share it have in common.
        path: Where it is mounted.
        no_copy: Whether it does not begin with what the image has there.
        content: What it begins with besides; the paths are those in the container.
    """

    key: str
    path: str
    read_only: bool = False
    no_copy: bool = False
    content: Sequence[Copy] = ()


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the class's beside its own; without a way out if it is internal."""

    key: str
    internal: bool = False
    aliases: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Extras(RunOptions):
    """What few services ask for.

    Attributes:
        copies: What is put into the container before it starts.
        aliases: What it is called on the class's network, beside its alias.
        on_own: Whether it stands on the class's network.
    """

    volumes: Sequence[Volume] = ()
    copies: Sequence[Copy] = ()
    networks: Sequence[Network] = ()
    aliases: Sequence[str] = ()
    on_own: bool = True


@dataclass(frozen=True, kw_only=True)
class SnapshotKey:
    """What a prepared server's data depend on, as a hash."""

    text: str
    lasting: bool  # whether another process can have the same


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    eq_default=False,
    field_specifiers=(field, options.private),
)
class Declaration:
    """Makes each subclass a frozen dataclass whose annotated attributes are its options."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)

    def __new__(cls, *args: object, **given: object) -> Self:
        """Check the names of the options, before the dataclass would raise a TypeError."""
        known = [item.name for item in dataclasses.fields(cls) if item.init]  # type: ignore[arg-type]
        if args:
            raise DeclarationError(
                f"{cls.__name__} takes options by name only, such as {known[0]}={args[0]!r}"
            )
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known, otherwise="it has")
                raise DeclarationError(f"{cls.__name__} has no option {name!r}{hint}")
        return super().__new__(cls)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Say which attribute was probably meant."""
            return missing_attribute(self, name)

    def __repr__(self) -> str:
        """Show the options that differ from their defaults."""
        asked = (
            f"{item.name}={value!r}"
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
            if item.repr and (value := getattr(self, item.name)) != _default(item)
        )
        return f"{type(self).__name__}({', '.join(asked)})"

    def __getstate__(self) -> Mapping[str, object]:
        """Be pickled as what was declared, without what was opened or computed since."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __get__(self, instance: object | None, owner: type | None = None) -> Self:
        """The running service of this test, else that of its class, else this declaration."""
        for place in (instance, owner):
            handle = getattr(place, "__dict__", {}).get(HANDLES, {}).get(self)
            if handle is not None:
                found = cast("Self", handle)
                found._claim()  # noqa: SLF001 - the same class
                return found
        return self

    def _claim(self) -> None:
        """Have what only those need who read the service."""

    def __set__(self, instance: object, value: object) -> None:
        """Refuse to be replaced in an instance, but by another handle of its own kind."""
        if not isinstance(value, type(self)):
            frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to tell who it is
            by = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
            raise DeclarationError(
                f"{declared_as(self)} is a declared {type(self).__name__}, and {by} would replace "
                f"it by {type(value).__name__}; give the service, or the other, another name"
            )
        vars(instance)[HANDLES] = {**vars(instance).get(HANDLES, {}), self: value}

    def __set_name__(self, owner: type, name: str) -> None:
        name_declaration(self, f"{owner.__name__}.{name}")


def declared_as(declaration: Declaration) -> str:
    """The class and attribute that declare a service, as ``Class.name``; empty without a class."""
    return str(vars(declaration).get(_DECLARED_AS, ""))


def name_declaration(declaration: Declaration, place: str) -> None:
    """Note which class and attribute, or which entry of a file, declares a service."""
    vars(declaration)[_DECLARED_AS] = place


def enter_alone(
    declared: object, services: Mapping[str, AnyDeclaration]
) -> Mapping[AnyDeclaration, AnyDeclaration]:
    """Run what no class declares, with clean state, until `leave_alone`: declaration to handle."""
    stack, kind = OwnStack(), type(declared).__name__
    if vars(declared).setdefault(_ALONE, stack) is not stack:
        raise DeclarationError(
            f"This {kind} is entered already; another {kind}(…) has a server of its own"
        )
    try:
        above = importlib.import_module("orchestrator.environment")
        found: Mapping[AnyDeclaration, AnyDeclaration] = stack.enter_context(
            above.alone(services, name=kind)
        )
    except BaseException:
        del vars(declared)[_ALONE]
        raise
    return found


def leave_alone(declared: object, *error: Any) -> None:
    """Remove what `enter_alone` started."""
    vars(declared).pop(_ALONE).__exit__(*error)


def _default(item: dataclasses.Field[Any]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


class Hooks(Declaration):
    """The methods to override in a service of your own; each has a default.

    Those whose names begin with ``server_``, and `container_ports`, are asked before the container
    is created; host, port, alias and password are known by then.

    Attributes:
        lock_entry: The entry of images.lock that it runs without ``image=``.
        container_port: The port that the server listens on.
        url_scheme: What `url` and `internal_url` begin with.
        client_modules: What is imported while its container starts, so that no test waits for it.
        usual_memory: Bytes that a server usually takes: without a limit of memory, ``test -j auto``
            counts with so much.
    """

    lock_entry: ClassVar[str] = ""
    container_port: ClassVar[int] = 0
    url_scheme: ClassVar[str] = "tcp"
    client_modules: ClassVar[Sequence[str]] = ()
    usual_memory: ClassVar[int] = 256 << 20

    def check_options(self) -> None:
        """Raise DeclarationError for a value of one's own options that cannot work."""

    def required_modules(self) -> Mapping[str, str | None]:
        """Python packages without which it cannot start or isolate, and our extra of each."""
        return {}

    def container_ports(self) -> Sequence[str]:
        """The container ports to publish, the main one first, such as ``["5432/tcp"]``."""
        return [f"{self.container_port}/tcp"]

    def server_env(self) -> Mapping[str, str]:
        """The environment variables its image needs."""
        return {}

    def server_command(self) -> Sequence[str] | None:
        """The arguments its image needs, or None for the image's own command."""
        return None

    def server_files(self) -> Mapping[str, bytes]:
        """Container path to content: the files its image needs."""
        return {}

    def server_links(self) -> Mapping[str, str]:
        """Container path to where a symbolic link there leads."""
        return {}

    def server_tmpfs(self) -> Mapping[str, str]:
        """Container path to the mount options of a file system in memory."""
        return {}

    def server_mounts(self) -> Mapping[str, str]:
        """Container path to a path of this machine, mounted read-only."""
        return {}

    def server_capabilities(self) -> Sequence[str]:
        """The capabilities its image needs; those left out of Docker's own serve attackers."""
        return CAPABILITIES

    def server_entrypoint(self) -> Sequence[str] | None:
        """What runs instead of the image's entry point, or None."""
        return None

    def server_user(self) -> str | None:
        """The user it runs as, or None for the image's own."""
        return None

    def server_extras(self) -> Extras:
        """Host names, volumes, networks and what else few services ask for."""
        return Extras()

    def readiness(self) -> Probe | None:
        """What tells that the server is ready; None when it is as soon as it runs."""
        raise NotImplementedError

    def started(self) -> None:
        """Do what the ready server needs after each start, also after `restart`."""

    def prepare(self) -> None:
        """Do once what the class needs of the ready server, such as migrations."""

    @contextmanager
    def isolated(self, test: str) -> Iterator[Self]:  # noqa: ARG002 - services that clean up name things by it
        """Give one test clean state: yield its handle, and drop the state afterwards.

        By a new connection: the test may have restarted the server. What a driver says of one that
        has ended for good is no error.
        """
        yield self

    @property
    def _is_for_several(self) -> bool:
        """Whether several tests may have clean state at once."""
        return False

    def _isolated_when_read(self, test: str) -> AbstractContextManager[Self]:
        """The same, where what is dear may wait until the test reads the service: see `_claim`."""
        return self.isolated(test)

    @contextmanager
    def shared(self, name: str) -> Iterator[Self]:  # noqa: ARG002 - services with a part name it so
        """With ``scope="run"``, give one class its part of a server that others use meanwhile.

        Yield the class's handle, which `isolated` is then called on, and drop the part afterwards.
        Nobody else has the name, which begins with ``run_``. Whoever does not override it hands out
        the whole server.
        """
        yield self

    def snapshot_key(self, image: str) -> SnapshotKey | None:  # noqa: ARG002 - for those who have
        """What the data depend on that `prepare` leaves; None when no other server may have them.

        Asked of the declaration, with the id of the image. When a server was prepared for the same
        before, `running.snapshot` says so when the hooks are asked for files and entry point, the
        data are at `SNAPSHOT_DATA`, and `restored` is called instead of `prepare`. Else `snapshot`
        may be called after it.
        """
        return None

    def snapshot(self) -> int:
        """Write the data, as `prepare` left them, to `SNAPSHOT_DATA`: how many bytes.

        Why there is no snapshot of them is an OrchestratorError.
        """
        raise NotImplementedError

    def restored(self) -> None:
        """Check a server that started from a snapshot; what raises has it start without."""

    def release(self) -> None:
        """Close what this handle opened."""

    def server_info(self) -> Mapping[str, object]:
        """What `info` tells about the server beside image, host and ports."""
        return {}

    def server_shell(self) -> str:
        """The command in its container with which to look into the server."""
        return "sh"

    def is_news(self, line: str) -> bool:  # noqa: ARG002 - for those who know their server's log
        """Whether a line of the log is for a failed test's note, or only tells of isolation."""
        return True

    def why_ended(self) -> str:
        """What the log of the ended server tells of the reason; empty if nothing."""
        return ""


def host_names(alias: str) -> list[str]:
    """What a service is called on its networks: its alias, and that with hyphens.

    RFC 1123 has no underscore in host names; Java's TLS, browsers and checks of ``Host`` insist.
    """
    hyphenated = alias.strip("_").replace("_", "-")
    return [alias] if hyphenated in alias else [alias, hyphenated]


def address(host: str, port: int) -> str:
    """Host and port as URLs have them: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(kw_only=True)
class Runtime:
    """The container behind a handle.

    Attributes:
        container: Its name.
        networks: Those it stands on, and what it is called there.
        ports: Container port such as ``"5432/tcp"`` to the host port.
        password: A random password of this server's own, for servers that want one.
        helper: `StartContext.helper_container`: runs another container in its network namespace.
        container_id: Known once the container exists; a handle is there before.
        restarts: How often `restart` has ended every connection to it.
        isolated: What has clean state of it now, outside of test classes.
        log_start: While it starts again, the time of its last line before: logs are read after it.
        snapshot: What it starts from, if not from nothing.
    """

    alias: str
    engine: Engine
    container: str
    networks: dict[str, Sequence[str]]
    ports: Mapping[str, int]
    password: str
    helper: Callable[..., AbstractContextManager[str]]
    image_id: str = ""
    container_id: str = ""
    restarts: int = 0
    isolated: list[str] = field(default_factory=list)
    log_start: str = ""
    snapshot: Snapshot | None = None
