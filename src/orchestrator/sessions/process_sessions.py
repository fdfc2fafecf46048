"""The sessions of this process: how it comes to own them, and what its end does with them.

The exit and signal handlers use nothing of the running program: no client, no lock, no thread (on
3.12 none can be started in atexit), no logging, no print. What they cannot finish in time, the
watchdog finishes.

SIGTERM and SIGHUP clean up first, then the process dies of the signal as by default. Only the
default action is ever replaced. A handler of somebody else stays: it means that the program deals
with the signal itself, and then either goes on (and still needs its services) or ends (through
atexit, or under the eyes of the watchdog). Never SIGINT: KeyboardInterrupt ends in atexit, and a
handler of ours would break ``unittest -c``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import printable
from orchestrator.sessions.bare.http_reaper import HttpReaper
from orchestrator.sessions.bare.removal import KINDS, remove_until_quiet
from orchestrator.sessions.reap import sweep
from orchestrator.sessions.session import Session
from orchestrator.sessions.watchdog import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine
    from orchestrator.sessions.bare.removal import Thing
    from orchestrator.settings import Settings

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_EXIT_SECONDS: Final = 10.0
_SIGNAL_SECONDS: Final = 5.0  # CI gives 7.5 s between SIGINT and SIGTERM, 2.5 s more until SIGKILL
_ANSWER_SECONDS: Final = 5.0
_BEFORE_THE_END: Final = tuple(kind for kind in KINDS if kind != "network")
_CREATES_IN_FLIGHT: Final = 1.0  # seconds
_blocked: Final = threading.local()  # the signal mask of a thread that is forking


class ProcessSessions:
    """The sessions of the calling process, one for each daemon it uses.

    A session is a process, so this cannot be an argument: exit handlers, signal handlers and forked
    children all have to find it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # held while a session is made
        self.supervisor: Supervisor | None = None
        self.sessions: dict[Endpoint, Session] = {}

    def owned(self) -> dict[Endpoint, Session]:
        """All sessions this process owns; takes no lock, signal handlers ask."""
        return {
            endpoint: session
            for endpoint, session in tuple(self.sessions.items())
            if session.owner.pid == os.getpid()
        }

    def disown(self) -> None:
        """In a forked child: own nothing, and let go of the parent's watchdogs."""
        self.lock = threading.Lock()  # another thread of the parent may have held it
        self.supervisor = None
        sessions, self.sessions = self.sessions, {}
        for session in sessions.values():
            session.disown()


PROCESS_SESSIONS: Final = ProcessSessions()


def supervised(pipe: int, *, grace: float) -> None:
    """Let a parent look at this process's things when it has died: before the first session.

    ``pipe`` is the reading end of one whose writing end only the parent has, and closes when it has
    looked. When the parent is gone, this process has the ``grace`` (seconds) to end by itself.
    """
    PROCESS_SESSIONS.supervisor = Supervisor(pipe=pipe, grace=grace)


def is_supervised() -> bool:
    """Whether a parent looks at the things of this process when it has died."""
    return PROCESS_SESSIONS.supervisor is not None


def own_session(engine: Engine, *, settings: Settings) -> Session:
    """The session of the calling process; a forked child gets one of its own.

    The first call sweeps what dead owners left, arms the exit and signal handlers and starts the
    watchdog.
    """
    arm_signals()
    with PROCESS_SESSIONS.lock:
        owned = PROCESS_SESSIONS.owned()
        if engine.endpoint in owned:
            return owned[engine.endpoint]
        session = Session(
            endpoint=engine.endpoint,
            run=settings.run,
            supervisor=PROCESS_SESSIONS.supervisor,
            before_create=arm_signals,
        )
        _arm()
        own = [one.id for one in owned.values()]
        try:
            session.watch(meanwhile=lambda: sweep(engine, own=own))
        except BaseException:
            session.dismiss_watchdogs()
            raise
        PROCESS_SESSIONS.sessions[engine.endpoint] = session
        return session


@functools.cache  # once is enough, also for a forked child: it inherits these
def _arm() -> None:
    """Have sessions ended with the process, and not with its forked children."""
    atexit.register(_at_exit)
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_in_forked_child
    )


def departed(*, test_class: str | None = None) -> Mapping[str, Sequence[Thing]]:
    """Wait until what is being removed is gone; by class, what would not go, told once.

    All of a class, or of every class; then networks that the watchdog is removing are not waited
    for, if it outlives this process.
    """
    left: dict[str, list[Thing]] = {}
    for session in PROCESS_SESSIONS.owned().values():
        kinds = _BEFORE_THE_END if test_class is None and _is_outlived(session) else KINDS
        for name, things in session.departing.awaited(kinds=kinds, test_class=test_class).items():
            left.setdefault(name, []).extend(things)
    return left


def _is_outlived(session: Session) -> bool:
    """Whether its watchdog may go on after this process, and nobody waits for that."""
    return session.supervisor is None and not session.owner.may_end_its_container


def end_session(session: Session, *, seconds: float, kinds: Sequence[str] = KINDS) -> None:
    """Remove everything of a session, or of these kinds, within a bounded time; never raise."""
    until = time.monotonic() + seconds
    session.gate.close()
    try:
        session.gate.wait_until_empty(seconds=_CREATES_IN_FLIGHT)
        label = f"{Label.SESSION}={session.id}"
        reaper = HttpReaper(
            session.endpoint.way, label, timeout=_ANSWER_SECONDS, until=until, kinds=kinds
        )
        seconds = until - time.monotonic()
        made = {name: kind for name, kind in session.made.items() if kind in kinds}
        seen, left = remove_until_quiet(reaper, seconds=seconds, made=made)
    except Exception as error:  # noqa: BLE001  # nothing may keep a process from ending
        _write_error(f"it is not known what is left of session {session.id}: {error}")
        return
    if left:
        what = "; ".join(_described(thing) for thing in left)
        _write_error(f"left behind in session {session.id}: {what}")
    elif kinds == KINDS and session.unsettled.issubset(seen):
        session.dismiss_watchdogs()


def _described(thing: Thing) -> str:
    of = thing.labels.get(Label.CLASS, "")
    return f"{thing.kind} {thing.name}{f' of {of}' if of else ''}: {thing.reason}"


def _write_error(what: str) -> None:
    """Tell the user, even where stderr is closed and print would raise."""
    text = (
        f"orchestrator: {printable(what, lines=False)}. Its watchdog goes on trying for two "
        "minutes; after that, run `python -m orchestrator reap`.\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))


def _at_exit() -> None:
    """Class clean-ups come first; on Ctrl-C unittest skips them."""
    sessions = PROCESS_SESSIONS.owned()
    if not sessions:  # also in a forked child that ends by sys.exit
        return
    _disarm_signals()
    for session in sessions.values():
        if session.endpoint.url.startswith("ssh://"):
            # Each connection takes a new process, which Python 3.12 no longer starts at exit.
            session.gate.close()  # the watchdog does all the rest
        else:
            under_way = session.departing.under_way
            # Its watchdog has just said that the rest of the last class is gone: it is at work.
            leave = set(under_way.values()) == {"network"} and under_way == session.made
            kinds = _BEFORE_THE_END if leave and _is_outlived(session) else KINDS
            end_session(session, seconds=_EXIT_SECONDS, kinds=kinds)
        # As the end of the process would, but for a ResourceWarning where Python's own end comes
        # upon the socket, which depends on what else there is (hypothesis, for one).
        session.disown()
    gc.freeze()  # or Python's own end searches all that docker-py and the drivers are made of


def _on_signal(number: int, _frame: FrameType | None) -> None:
    try:
        _disarm_signals()
        for session in PROCESS_SESSIONS.owned().values():
            end_session(session, seconds=_SIGNAL_SECONDS)
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # as PID 1 of a container, the signal did nothing


def arm_signals() -> None:
    """Make sure that our handlers are in place: asyncio, for one, resets them when a loop ends.

    Only the main thread can; elsewhere, and until then, the watchdog does it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL and not _caught_in_c(number):
            signal.signal(number, _on_signal)


def _caught_in_c(number: int) -> bool:
    """Whether a handler was installed behind Python's back, such as faulthandler's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        caught = int(status.partition("SigCgt:")[2].split(None, 1)[0], 16)
    except (OSError, IndexError, ValueError):
        return False
    return bool(caught >> (number - 1) & 1)


def _disarm_signals() -> None:
    """Take no further SIGTERM or SIGHUP while cleaning up, which is bounded; Ctrl-C kills at once.

    The same request often comes twice (GNU ``timeout`` signals the process, then its group), and in
    a container the watchdog, which could finish, ends with its owner.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _block_signals() -> None:
    """Before a fork: what is sent to the child too early must wait.

    A forked Python child forgets the signals that came before it was set up. Where a handler is
    installed, and that is our doing, a SIGTERM of ``Process.terminate()`` would be lost.
    """
    _blocked.masks = [signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)]


def _unblock_signals() -> None:
    for mask in vars(_blocked).pop("masks", ()):
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_forked_child() -> None:
    """It owns nothing, so its signals have the default action again."""
    PROCESS_SESSIONS.disown()
    for number in SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL)
    _unblock_signals()
