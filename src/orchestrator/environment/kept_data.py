"""Data of prepared servers that others start from: found, taken, and dropped when they are damaged.

Nothing here is an error of the class: without a snapshot its server starts as ever.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label, VolumeMount
from orchestrator.errors import EngineUnavailableError, OrchestratorError, printable
from orchestrator.services.hooks import SNAPSHOT
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
        self._key: SnapshotKey | None = None
        self._volume = ""
        self._is_first = False
        if context.settings.snapshots:
            self._key = declaration.snapshot_key(image)

    @property
    def takes(self) -> bool:
        """Whether the server has a volume for its data."""
        return bool(self._volume)

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
        if self._key is None or not self._volume:
            return
        if self._is_first and not self._key.lasting and time.monotonic() - began < _WORTH_IT:
            return
        try:
            with self._context.span(self._alias, "snapshot"):
                self._take(handle, self._key)
        except Exception as error:  # noqa: BLE001 - a full disk, a server that is not as we know it
            why = printable(str(error), lines=False)
            level = logging.INFO if isinstance(error, OrchestratorError) else logging.WARNING
            _log.log(level, "no snapshot is made of %s: %s", self._alias, why)

    def _may_be_taken(self) -> bool:
        """Whether there is none yet, and no other service of the class makes it right now."""
        assert self._key is not None  # noqa: S101 - for the type checker
        with _lock.held():
            known = _OF_PROCESS.setdefault(self._context.session, {})
            self._is_first = self._key.text not in known
            known.setdefault(self._key.text, None)
            return self._is_first or not (self._key.lasting or known[self._key.text])

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

    def mounts(self, snapshot: Snapshot | None) -> list[VolumeMount]:
        """The volume of a snapshot, read-only; else an empty one, if its data may be of use."""
        context = self._context
        labels = context.session.labels()
        if snapshot is not None:  # one that has gone since is an empty one of ours
            name = labels[Label.NAME] = snapshot.volume
            return [
                VolumeMount(volume=name, path=SNAPSHOT, read_only=True, no_copy=True, labels=labels)
            ]
        if self._key is not None and not self._volume and self._may_be_taken():
            name = context.session.name("snapshot")
            with context.creating("volume", name):
                labels[Label.SNAPSHOT] = self._key.text
                context.engine.create_volume(name, labels=labels)
            self._volume = name
        if not self._volume:
            return []
        return [VolumeMount(volume=self._volume, path=SNAPSHOT, no_copy=True)]

    def _take(self, handle: Service, key: SnapshotKey) -> None:
        context, session = self._context, self._context.session
        made = Snapshot(
            key=key.text,
            volume=self._volume,
            size=handle.snapshot(),
            test_class=context.test_class,
            service=self._alias,
        )
        if made.size > context.settings.snapshots:
            return
        if key.lasting:
            keep_snapshot(context.engine, session, made)
        else:
            _OF_PROCESS[session][key.text] = made
        context.outlive("volume", made.volume)
        limit_snapshots(context.engine, context.settings.snapshots)
