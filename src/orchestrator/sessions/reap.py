"""What sessions own on a daemon, and removing what dead owners left: by hand, and at each start."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import EngineError, printable
from orchestrator.sessions.bare.http_reaper import HttpReaper, KnownThings
from orchestrator.sessions.bare.removal import KINDS, SilentError, Thing, remove_until_quiet
from orchestrator.sessions.identity import Identity, Liveness, hold, is_held, liveness, this_process

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine

_REAP_SECONDS: Final = 5.0  # for what does not go at the first attempt
_SWEEP_SECONDS: Final = 0.5  # what will not go must not hold up every start there is
_SESSION_QUIET: Final = 0.25  # a create whose client vanished appears 11 to 180 ms later
_GOING: Final = "already in progress"
_LOG: Final = logging.getLogger(__name__)


def snapshot(
    engine: Engine,
    wanted: Mapping[str, str | None],
    *,
    kept: bool = False,
    kinds: Sequence[str] = KINDS,
) -> tuple[Sequence[Thing], Mapping[str, str]]:
    """List what was created under these labels (None: any value), and did not only inherit them.

    Beside the things are the kinds that the daemon does not list, with its reasons: a filter before
    its socket may forbid it. When it lists nothing at all, that is an `EngineError`.
    """
    labels = [name if value is None else f"{name}={value}" for name, value in wanted.items()]
    way, timeout = engine.endpoint.way, engine.timeout
    try:
        reaper = HttpReaper(way, *labels, timeout=timeout, kept=kept, kinds=kinds)
    except OSError as error:
        engine.info()  # it says more about certificates that cannot be used
        raise EngineError(f"The Docker daemon cannot be asked: {error}") from error
    for last in (False, True):
        try:
            return reaper.listed(), reaper.refused
        except SilentError as error:
            failed = f"The Docker daemon failed to list what is ours: {error}"
            if len(reaper.refused) == len(kinds):
                raise EngineError(failed, status=403) from error
            if last:
                raise EngineError(failed) from error
            engine.info()  # it says more about a daemon that is away, or is none
    raise AssertionError  # the last attempt returns or raises


def remove_things(engine: Engine, things: Sequence[Thing], *, seconds: float) -> list[Thing]:
    """Remove these, again and again while the daemon refuses: it often does so for a moment only.

    The seconds are for what does not go at the first attempt. A daemon that does not answer is not
    waited for: who cleans up later finds what is left. Those that are still there are returned,
    each with the ``reason``.
    """
    known = KnownThings(engine.endpoint.way, things, timeout=engine.timeout)
    with contextlib.suppress(SilentError):
        remove_until_quiet(known, seconds=seconds)
    return known.listed()


def remove_kept(engine: Engine, test_class: str) -> None:
    """Remove what was kept of earlier runs of a class: one question when there is nothing."""
    volumes, _ = snapshot(engine, {Label.CLASS: test_class}, kept=True, kinds=["volume"])
    markers = [volume for volume in volumes if Label.KEPT in volume.labels]
    named = " ".join(marker.labels[Label.KEPT] for marker in markers).split()
    things = [Thing(kind, name, name) for kind, _, name in (it.partition(":") for it in named)]
    remove_things(engine, [*things, *markers], seconds=_REAP_SECONDS)


def remove_session(engine: Engine, session: str) -> list[Thing]:
    """Remove everything of one session, whose owner the caller knows to be dead or done.

    It waits a moment for creates that were still under way; that session's watchdog waits longer.
    What is still there is returned.
    """
    label = f"{Label.SESSION}={session}"
    reaper = HttpReaper(engine.endpoint.way, label, timeout=engine.timeout)
    try:
        return remove_until_quiet(reaper, seconds=_REAP_SECONDS, quiet=_SESSION_QUIET)[1]
    except SilentError as error:
        raise EngineError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Owned:
    """One thing of a session, and the process it belongs to. What is not known is empty.

    Attributes:
        id: What a removal takes.
        process: The owning process in words, such as ``pid 12 on build``.
        kept: Whether it outlives its owner, because its class failed, or as a snapshot.
        snapshot: Whether it is of one.
        is_marker: Whether it is the volume that says what is kept.
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
    kept: bool = False
    snapshot: bool = False
    is_marker: bool = False

    def age(self, now: datetime) -> float | None:
        """Seconds since its creation."""
        return None if self.created is None else (now - self.created).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What exists of all sessions; and the kinds the daemon does not list, with its reasons."""

    things: Sequence[Owned]
    refused: Mapping[str, str]


def inventory(
    engine: Engine, *, labelled: Mapping[str, str] | None = None, own: Collection[str] | None = None
) -> Inventory:
    """List everything that was created in some session, and judge whether its owner lives.

    ``labelled`` has more labels to ask for; ``own`` the ids of all sessions of this process, when
    it knows them. Another session with its identity then belongs to the program it was before
    `os.execv`: dead.
    """
    here = this_process()
    judged: dict[tuple[str | None, bool], tuple[Liveness, str]] = {}
    things = []
    found, refused = snapshot(engine, {Label.MARK: "1", **(labelled or {})}, kept=True)
    for item in found:
        session = item.labels.get(Label.SESSION, "")
        if item.kind == "image" and not session:
            continue  # built for everybody, such as test images: nobody left it behind
        key = item.labels.get(Label.OWNER), own is not None and session not in own
        if key not in judged:
            judged[key] = _judge(key[0], here=here, another_program=key[1])
        owner, process = judged[key]
        if owner is Liveness.DEAD and is_held(session):
            owner = Liveness.ALIVE
        things.append(
            Owned(
                kind=item.kind,
                id=item.id,
                name=item.name,
                status=item.status,
                image=item.image,
                session=session,
                run=item.labels.get(Label.RUN, ""),
                owner=owner,
                process=process,
                test_class=item.labels.get(Label.CLASS, ""),
                service=item.labels.get(Label.SERVICE, ""),
                created=_when(item.labels.get(Label.CREATED, "")),
                kept=item.kept,
                snapshot=item.kept and Label.SNAPSHOT in item.labels,
                is_marker=Label.KEPT in item.labels,
            )
        )
    return Inventory(things=things, refused=refused)


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


def _when(text: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to remove; without anything set, what provably dead owners left.

    Owners that cannot be judged from here, on another host or in another container, count as alive
    unless an age is given.

    Attributes:
        everything: Also what belongs to living owners, and what has malformed labels.
        session, run: Only this one.
        kept: Also what is kept of classes that failed. Snapshots go with `everything` alone.
        older_than: Only what is older, in seconds; then also of owners that cannot be judged.
    """

    everything: bool = False
    session: str | None = None
    run: str | None = None
    kept: bool = False
    older_than: float | None = None

    def spares(self, thing: Owned, *, now: datetime) -> str:
        """Why this is left alone; empty when it is to go."""
        if reason := "" if self.everything else self._spares_owner(thing):
            return reason
        if self.older_than is None:
            return ""
        age = thing.age(now)
        if age is None:
            return "its age cannot be known: the label for it cannot be read"
        return f"it is only {age:.0f} s old" if age <= self.older_than else ""

    def _spares_owner(self, thing: Owned) -> str:
        if thing.kept:
            return "" if self.kept else "it is kept, because its class failed"
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


@dataclass(frozen=True, kw_only=True)
class ReapReport:
    """What a reap removed (or, as a dry run, would), left alone on purpose, and could not remove.

    The latter two with the reasons. Of the kinds in ``refused`` it does not know what there is; the
    daemon's reason is beside them.
    """

    removed: Sequence[Owned]
    kept: Sequence[tuple[Owned, str]]
    failed: Sequence[tuple[Owned, str]]
    refused: Mapping[str, str]


def reap(
    engine: Engine,
    selection: Selection = Selection(),
    *,
    dry_run: bool = False,
    seconds: float = _REAP_SECONDS,
    own: Collection[str] | None = None,
) -> ReapReport:
    """Remove what dead owners left, or what a selection says. Several at once are fine.

    The seconds are for what does not go at the first attempt; ``own`` is as for `inventory`.
    """
    wanted = {Label.SESSION: selection.session, Label.RUN: selection.run}
    labelled = {name: value for name, value in wanted.items() if value is not None}
    found = inventory(engine, labelled=labelled, own=own)
    now = datetime.now(UTC)
    judged = [
        (it, selection.spares(it, now=now))
        for it in found.things
        if selection.everything or not it.snapshot
    ]
    chosen = {Thing(it.kind, it.id, it.name): it for it, reason in judged if not reason}
    left = [] if dry_run else remove_things(engine, [*chosen], seconds=seconds)
    return ReapReport(
        removed=[owned for thing, owned in chosen.items() if thing not in left],
        kept=[(it, reason) for it, reason in judged if reason],
        failed=[(chosen[thing], thing.reason) for thing in left],
        refused=found.refused,
    )


def sweep_lock(endpoint: Endpoint) -> str:
    """The name that who sweeps a daemon for this user holds meanwhile."""
    return f"sweep-{os.getuid()}-{hashlib.sha256(endpoint.url.encode()).hexdigest()[:12]}"


def sweep(engine: Engine, *, own: Collection[str]) -> None:
    """Before a process creates anything: remove what provably dead owners left.

    Of many processes of a user that start together one sweeps, and the others do not wait for it.
    Where a system has no such locks, all sweep, which does no harm.
    """
    name = sweep_lock(engine.endpoint)
    lock = hold(name)
    if lock is None and is_held(name):
        return
    try:
        with lock or contextlib.nullcontext():
            report = reap(engine, seconds=_SWEEP_SECONDS, own=own)
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
    for thing, reason in report.failed:
        if _GOING not in reason:  # else its own watchdog is at it
            what = printable(f"{thing.kind} {thing.name}: {reason}", lines=False)
            _LOG.warning("could not remove %s", what)
