"""Data of prepared servers that others start from: found, taken, and dropped when they are damaged.

Nothing here is an error of the class: without a snapshot its server starts as ever.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Copy, Label, VolumeMount
from orchestrator.errors import EngineUnavailableError, OrchestratorError, printable
from orchestrator.services.hooks import SNAPSHOT, SNAPSHOT_DATA
from orchestrator.services.once import ProcessLock
from orchestrator.sessions import (
    Snapshot,
    keep_snapshot,
    limit_snapshots,
    list_snapshots,
    note_use,
    remove_snapshots,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.environment.context import StartContext
    from orchestrator.services.hooks import SnapshotKey
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session

_log: Final = logging.getLogger("orchestrator.environment")
_WORTH_IT: Final = 1.0  # seconds of preparation, for one that may never be met again
_lock: Final = ProcessLock()
# By key, of what only this process can meet again: None for what was met, and is not taken.
_OF_PROCESS: Final[weakref.WeakKeyDictionary[Session, dict[str, Snapshot | None]]] = (
    weakref.WeakKeyDictionary()
)


class KeptData:
    """What a service may start from, and what becomes of its data when there is nothing yet."""

    def __init__(
        self, declaration: Service, alias: str, context: StartContext, *, image: str
    ) -> None:
        self._alias = alias
        self._context = context
        self._image = image
        self._key: SnapshotKey | None = None
        if context.settings.snapshots:
            self._key = declaration.snapshot_key(image)

    def restored(self, ready: Callable[[Snapshot | None], Service]) -> Service | None:
        """The service, started from a snapshot; None when there is none that is good."""
        found, context = self._found(), self._context
        if found is None:
            return None
        try:
            handle = ready(found)
            handle.restored()
        except Exception as error:
            if context.stopping.is_set() or isinstance(error, EngineUnavailableError):
                raise
            why = printable(str(error), lines=False)
            _log.warning("%s starts without its snapshot, which is dropped: %s", self._alias, why)
            self._drop(found)
            return None
        note_use(found.key)
        return handle

    @contextlib.contextmanager
    def taken_after(self, handle: Service) -> Iterator[None]:
        """Prepare the server in the block; then take its data, if they may be of use again."""
        began = time.monotonic()
        yield
        if self._key is None or not self._is_worth_it(time.monotonic() - began):
            return
        try:
            with self._context.span(self._alias, "snapshot"):
                self._take(handle, self._key)
        except Exception as error:  # noqa: BLE001 - a full disk, a server that is not as we know it
            why = printable(str(error), lines=False)
            level = logging.INFO if isinstance(error, OrchestratorError) else logging.WARNING
            _log.log(level, "no snapshot is made of %s: %s", self._alias, why)

    def _is_worth_it(self, seconds: float) -> bool:
        """Whether to take one; what only this process can meet again may never be."""
        assert self._key is not None  # noqa: S101 - for the type checker
        with _lock.held():
            known = _OF_PROCESS.setdefault(self._context.session, {})
            met = self._key.text in known
            known.setdefault(self._key.text, None)
            if self._key.lasting:
                return not met  # another service of the class may make it right now
            return seconds > _WORTH_IT if not met else known[self._key.text] is None

    def _found(self) -> Snapshot | None:
        if self._key is None:
            return None
        if not self._key.lasting:
            return _OF_PROCESS.get(self._context.session, {}).get(self._key.text)
        with contextlib.suppress(OrchestratorError):
            found = list_snapshots(self._context.engine, key=self._key.text)
            return next((it for it in found if it.is_whole), None)
        return None

    def _drop(self, found: Snapshot) -> None:
        """Remove it, and what was started from it."""
        context = self._context
        for handle in [it for it in context.bound if it.alias == self._alias]:
            context.bound.remove(handle)
            with contextlib.suppress(OrchestratorError):
                handle.release()
            context.remove_container(handle.running.container)
        _OF_PROCESS.get(context.session, {}).pop(found.key, None)
        with contextlib.suppress(OrchestratorError):
            remove_snapshots(context.engine, [found])

    def _take(self, handle: Service, key: SnapshotKey) -> None:
        context, session = self._context, self._context.session
        tar = handle.snapshot()
        if len(tar) > context.settings.snapshots:
            return
        made = Snapshot(
            key=key.text,
            volume=session.name("snapshot"),
            size=len(tar),
            test_class=context.test_class,
            service=self._alias,
        )
        try:
            self._fill(made, tar)
            if key.lasting:
                keep_snapshot(context.engine, session, made)
            else:
                _OF_PROCESS[session][key.text] = made
        except BaseException:
            with contextlib.suppress(OrchestratorError):
                remove_snapshots(context.engine, [made])
            session.forget(made.volume)
            raise
        limit_snapshots(context.engine, context.settings.snapshots)

    def _fill(self, made: Snapshot, tar: bytes) -> None:
        """Through a container that never runs: that of the server has no way to it."""
        context, engine = self._context, self._context.engine
        labels = {**context.session.labels(), Label.SNAPSHOT: made.key}
        with context.session.creating("volume", made.volume):
            engine.create_volume(made.volume, labels=labels)
        mount = VolumeMount(volume=made.volume, path=SNAPSHOT, no_copy=True)
        with context.filler(mount, image=self._image) as filler:
            engine.files.copy_into(filler, [Copy(path=SNAPSHOT_DATA, source=tar)])


def snapshot_mounts(snapshot: Snapshot | None, context: StartContext) -> list[VolumeMount]:
    """The volume of a snapshot, read-only; one that has gone since is an empty one of ours."""
    if snapshot is None:
        return []
    labels = {**context.session.labels(), Label.NAME: snapshot.volume}
    return [
        VolumeMount(
            volume=snapshot.volume, path=SNAPSHOT, read_only=True, no_copy=True, labels=labels
        )
    ]
