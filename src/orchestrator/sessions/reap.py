"""What sessions own on a daemon, and removing what dead owners left: by hand, and at each start."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import KINDS, Label
from orchestrator.errors import EngineError, printable
from orchestrator.sessions.bare.http_reaper import HttpReaper
from orchestrator.sessions.bare.removal import SilentError, Thing, own_name, remove_until_quiet
from orchestrator.sessions.identity import Identity, Liveness, liveness, this_process

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from orchestrator.engine import Endpoint
    from orchestrator.engine.api import Listed
    from orchestrator.engine.docker import Engine

_REAP_SECONDS: Final = 5.0  # for what does not go at the first attempt
_SESSION_QUIET: Final = 0.25  # a create whose client vanished appears 11 to 180 ms later
_SWEEP_SECONDS: Final = 0.5  # what will not go must not hold up every start there is
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was created under some labels and exists at one moment.

    Attributes:
        things: Each by the name it was created under; an image's id is its tag, with which nobody
            else's tag of it is removed.
        refused: The kinds that the daemon does not list, and its reasons: a filter before its
            socket may forbid it.
    """

    things: Sequence[Listed]
    refused: Mapping[str, str]


def snapshot(engine: Engine, wanted: Mapping[str, str]) -> Snapshot:
    """List what was created under these labels, without what only inherited them.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    things = []
    refused: dict[str, EngineError] = {}
    for kind in KINDS:
        try:
            found = engine.labelled(wanted, kinds=[kind])
        except EngineError as error:
            if error.status is None:
                raise
            refused[kind] = error
            continue
        for item in found:
            name = own_name(kind, item.names, item.labels)
            if name is not None:
                things.append(replace(item, name=name, id=name if kind == "image" else item.id))
    if len(refused) == len(KINDS):
        raise refused[KINDS[0]]
    return Snapshot(things=things, refused={kind: str(error) for kind, error in refused.items()})


class _KnownThings(HttpReaper):
    """A reaper of things that are known; each is gone when its removal succeeded."""

    def __init__(self, engine: Engine, things: Iterable[Thing]) -> None:
        super().__init__(engine.endpoint.way, "", timeout=engine.timeout)
        self._left = list(things)

    def listed(self) -> list[Thing]:
        return self._left

    def remove(self, things: Iterable[Thing]) -> None:
        super().remove(things)
        self._left = [thing for thing in self._left if thing.reason]


def remove_things(engine: Engine, things: Sequence[Thing], *, seconds: float) -> list[Thing]:
    """Remove these, again and again while the daemon refuses: it often does so for a moment only.

    Args:
        engine: The daemon.
        things: What to remove, in any order.
        seconds: For what does not go at the first attempt. A daemon that does not answer is not
            waited for: who cleans up later finds what is left.

    Returns:
        What is still there; the ``reason`` of each says why.
    """
    known = _KnownThings(engine, things)
    with contextlib.suppress(SilentError):
        remove_until_quiet(known, seconds=seconds)
    return known.listed()


def remove_session(engine: Engine, session: str) -> list[Thing]:
    """Remove everything of one session, whose owner the caller knows to be dead or done.

    It waits a moment for creates that were still under way; that session's watchdog waits longer.

    Returns:
        What is still there; the ``reason`` of each says why.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    label = f"{Label.SESSION}={session}"
    reaper = HttpReaper(engine.endpoint.way, label, timeout=engine.timeout)
    try:
        return remove_until_quiet(reaper, seconds=_REAP_SECONDS, quiet=_SESSION_QUIET)[1]
    except SilentError as error:
        raise EngineError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Owned:
    """One container, network, volume or image of a session, and the process it belongs to.

    Attributes:
        kind: ``"container"``, ``"network"``, ``"volume"`` or ``"image"``.
        id: What a removal takes.
        name: What a person recognises.
        status: Docker's word for a container; empty for the rest.
        image: What a container runs; empty for the rest.
        session: The id of the owning session.
        run: The id of its run.
        owner: Whether the owning process is alive.
        process: The owning process in words, such as ``pid 12 on build``.
        test_class: The class it was made for; empty when it is not known.
        service: The alias in that class; empty for what is not a service.
        created: When it was created, or None when the label cannot be read.
    """

    kind: str
    id: str
    name: str
    status: str
    image: str
    session: str
    run: str
    owner: Liveness
    process: str
    test_class: str
    service: str
    created: datetime | None

    def age(self, now: datetime) -> float | None:
        """Seconds since its creation."""
        return None if self.created is None else (now - self.created).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything that was created in sessions and exists on a daemon.

    Attributes:
        things: What there is.
        refused: The kinds that the daemon does not list, and its reasons.
    """

    things: Sequence[Owned]
    refused: Mapping[str, str]


def inventory(
    engine: Engine,
    *,
    labelled: Mapping[str, str] | None = None,
    here: Identity | None = None,
    own: Collection[str] | None = None,
) -> Inventory:
    """List everything that was created in some session, and judge whether its owner lives.

    Args:
        engine: The daemon.
        labelled: More labels to ask for.
        here: The process that judges the owners; the calling one by default.
        own: Ids of all sessions of the judging process, when it knows them. Another session with
            its identity then belongs to the program it was before `os.execv`: dead.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    here = here or this_process()
    judged: dict[tuple[str | None, bool], tuple[Liveness, str]] = {}
    things = []
    found = snapshot(engine, {Label.MARK: "1", **(labelled or {})})
    for item in found.things:
        session = item.labels.get(Label.SESSION, "")
        if item.kind == "image" and not session:
            continue  # built for everybody, such as test images: nobody left it behind
        key = item.labels.get(Label.OWNER), own is not None and session not in own
        if key not in judged:
            judged[key] = _judge(key[0], here=here, another_program=key[1])
        owner, process = judged[key]
        things.append(_owned(item, owner=owner, process=process))
    return Inventory(things=things, refused=found.refused)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to remove; without anything set, what provably dead owners left.

    Owners that cannot be judged from here, on another host or in another container, count as alive
    unless an age is given.

    Attributes:
        everything: Also what belongs to living owners, and what has malformed labels.
        session: Only this session.
        run: Only the sessions of this run.
        spare_run: Nothing of this run.
        older_than: Only what is older, in seconds; then also of owners that cannot be judged.
    """

    everything: bool = False
    session: str | None = None
    run: str | None = None
    spare_run: str | None = None
    older_than: float | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels to ask the daemon for."""
        wanted = {Label.SESSION: self.session, Label.RUN: self.run}
        return {name: value for name, value in wanted.items() if value is not None}

    def spares(self, thing: Owned, *, now: datetime) -> str:
        """Why this is left alone; empty when it is to go."""
        return ("" if self.everything else self._for_its_owner(thing)) or self._for_its_age(
            thing, now=now
        )

    def _for_its_owner(self, thing: Owned) -> str:
        if thing.owner is Liveness.ALIVE:
            return f"its owner is alive ({thing.process})"
        if thing.owner is Liveness.MALFORMED:
            return f"its owner cannot be known: {thing.process}; --all removes it"
        if thing.owner is Liveness.UNKNOWN and self.older_than is None:
            return (
                f"its owner cannot be judged from here ({thing.process}); "
                "--older-than removes it once it is old enough"
            )
        return ""

    def _for_its_age(self, thing: Owned, *, now: datetime) -> str:
        if self.older_than is None:
            return ""
        age = thing.age(now)
        if age is None:
            return "its age cannot be known: the label for it cannot be read"
        return f"it is only {age:.0f} s old" if age <= self.older_than else ""


@dataclass(frozen=True, kw_only=True)
class Spared:
    """Something that a reap did not remove, and why."""

    thing: Owned
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReapReport:
    """What a reap did, or, as a dry run, would do.

    Attributes:
        removed: What is gone (or would be).
        kept: What it left alone on purpose.
        failed: What it should have removed and could not.
        refused: The kinds that the daemon does not list, and its reasons; what there is of them, it
            does not know.
    """

    removed: Sequence[Owned] = ()
    kept: Sequence[Spared] = ()
    failed: Sequence[Spared] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def reap(
    engine: Engine,
    selection: Selection = Selection(),
    *,
    dry_run: bool = False,
    seconds: float = _REAP_SECONDS,
    here: Identity | None = None,
    own: Collection[str] | None = None,
) -> ReapReport:
    """Remove what dead owners left, or what a selection says. Several at once are fine.

    Args:
        engine: The daemon.
        selection: What to remove.
        dry_run: Remove nothing, only say what would be removed.
        seconds: For what does not go at the first attempt.
        here: The process that judges the owners; the calling one by default.
        own: Ids of all sessions of that process, when it knows them.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    found = inventory(engine, labelled=selection.labels, here=here, own=own)
    now = datetime.now(UTC)
    chosen: list[Owned] = []
    kept: list[Spared] = []
    for thing in found.things:
        if thing.run == selection.spare_run:
            continue
        if reason := selection.spares(thing, now=now):
            kept.append(Spared(thing=thing, reason=reason))
        else:
            chosen.append(thing)
    things = [Thing(thing.kind, thing.id, thing.name) for thing in chosen]
    left = [] if dry_run else remove_things(engine, things, seconds=seconds)
    reasons = {(thing.kind, thing.id): thing.reason for thing in left}
    return ReapReport(
        removed=[thing for thing in chosen if (thing.kind, thing.id) not in reasons],
        kept=kept,
        failed=[
            Spared(thing=thing, reason=reasons[thing.kind, thing.id])
            for thing in chosen
            if (thing.kind, thing.id) in reasons
        ],
        refused=found.refused,
    )


def sweep(
    engine: Engine,
    *,
    endpoint: Endpoint,
    here: Identity,
    own: Collection[str],
    spare_run: str | None = None,
) -> None:
    """Before a process creates anything: remove what provably dead owners left.

    Of many processes that start together one sweeps, and the others do not wait for it.

    Args:
        engine: The daemon.
        endpoint: Its address, which names the lock.
        here: The calling process.
        own: The sessions it already has.
        spare_run: A run whose dead are somebody else's to clean up after.

    Raises:
        EngineError: The daemon does not answer. Things that would not go are logged, not raised.
    """
    with _sweep_lock(endpoint) as locked:
        if not locked:
            return
        try:
            selection = Selection(spare_run=spare_run)
            report = reap(engine, selection, seconds=_SWEEP_SECONDS, here=here, own=own)
        except EngineError as error:
            if error.status is None:
                raise
            _LOG.warning("could not look for what dead processes left: %s", error)
            return
    for thing in report.removed:
        what = printable(f"{thing.kind} {thing.name} of {thing.process}", lines=False)
        _LOG.info("removed %s", what)
    for kind, reason in report.refused.items():
        why = printable(reason, lines=False)
        _LOG.warning("cannot know which %ss dead processes left: %s", kind, why)
    for failure in report.failed:
        thing = failure.thing
        what = printable(f"{thing.kind} {thing.name}: {failure.reason}", lines=False)
        _LOG.warning("could not remove %s", what)


@contextlib.contextmanager
def _sweep_lock(endpoint: Endpoint) -> Iterator[bool]:
    """Hold the lock of one daemon and one user, or yield False at once.

    Unlocked by hand: a child forked meanwhile shares the lock, and would keep it all its life.
    """
    try:
        lock = os.open(_lock_file(endpoint), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:  # a full or read-only disk: sweeping twice does no harm
        _LOG.debug("no lock file: %s", error)
        yield True
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def _lock_file(endpoint: Endpoint) -> Path:
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    key = hashlib.sha256(endpoint.url.encode()).hexdigest()[:12]
    return Path(folder) / f"orchestrator-{os.getuid()}-{key}.lock"


def _judge(label: str | None, *, here: Identity, another_program: bool) -> tuple[Liveness, str]:
    if label is None:
        return Liveness.MALFORMED, "there is no owner label"
    try:
        owner = Identity.from_label(label)
    except ValueError as error:
        return Liveness.MALFORMED, str(error)
    process = f"pid {owner.pid} on {owner.host.partition('/')[0]}"
    if owner.boot == here.boot and owner.pidns != here.pidns:
        process += ", in another container"
    if owner == here and another_program:
        return Liveness.DEAD, f"{process}, before it called exec"
    return liveness(owner, here=here), process


def _owned(item: Listed, *, owner: Liveness, process: str) -> Owned:
    return Owned(
        kind=item.kind,
        id=item.id,
        name=item.name,
        status=item.status,
        image=item.image,
        session=item.labels.get(Label.SESSION, ""),
        run=item.labels.get(Label.RUN, ""),
        owner=owner,
        process=process,
        test_class=item.labels.get(Label.CLASS, ""),
        service=item.labels.get(Label.SERVICE, ""),
        created=_when(item.labels.get(Label.CREATED, "")),
    )


def _when(text: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
