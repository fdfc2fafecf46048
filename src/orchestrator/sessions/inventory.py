"""Everything of this project on a daemon, with what its labels say and how its owner is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import EngineError
from orchestrator.sessions.bare.thing import KINDS, own_name
from orchestrator.sessions.identity import Identity, this_process
from orchestrator.sessions.liveness import Liveness, liveness

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.engine.api import Listed
    from orchestrator.engine.docker import Engine


_FAILED: Final = 500


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was created under some labels, as the daemon tells it now.

    Attributes:
        things: Each by the name it was created under; an image's id is its tag, with which nobody
            else's tag of it is removed.
        refused: The kinds that the daemon does not list, and its reasons: a filter before its
            socket may forbid it.
        uncertain: Whether it may list them when it is asked again.
    """

    things: Sequence[Listed]
    refused: Mapping[str, str]
    uncertain: bool


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
    return Snapshot(
        things=things,
        refused={kind: str(error) for kind, error in refused.items()},
        uncertain=any((error.status or 0) >= _FAILED for error in refused.values()),
    )


@dataclass(frozen=True, kw_only=True)
class Owned:
    """One container, network, volume or image, and whose it is.

    Attributes:
        kind: ``"container"``, ``"network"``, ``"volume"`` or ``"image"``.
        id: What a removal takes.
        name: What a person recognises.
        status: Docker's word for a container; empty for the rest.
        image: What a container runs; empty for the rest.
        session: The id of the owning session.
        run: The id of its run.
        owner: How the owner is.
        process: The owner in words.
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
    """Everything that sessions own on a daemon.

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
    """List everything that a session owns, or should own.

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
            judged[key] = _judge(key[0], here=here, foreign=key[1])
        owner, process = judged[key]
        things.append(_owned(item, owner=owner, process=process))
    return Inventory(things=things, refused=found.refused)


def _judge(label: str | None, *, here: Identity, foreign: bool) -> tuple[Liveness, str]:
    if label is None:
        return Liveness.MALFORMED, "there is no owner label"
    try:
        owner = Identity.from_label(label)
    except ValueError as error:
        return Liveness.MALFORMED, str(error)
    process = f"pid {owner.pid} on {owner.host.partition('/')[0]}"
    if owner.boot == here.boot and owner.pidns != here.pidns:
        process += ", in another container"
    if owner == here and foreign:
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
