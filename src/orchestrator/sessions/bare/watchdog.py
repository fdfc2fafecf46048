"""The watchdog: a process that sleeps until its owner is dead, then removes what it left.

It wakes on the end of the socket to its owner, or on the owner's pidfd, whichever comes first: the
socket also ends when the owner execs, and on systems without pidfd; the pidfd also fires when
children forked behind Python's back hold the socket open. While the owner lives there is no timer.

An owner may have a supervisor, a process that it must not outlive for long: it ends by itself when
that one is gone. When it cannot (stopped, or stuck in C), the watchdog ends it.

Lines from the owner: ``+kind name`` before a create, ``=kind name`` when it was answered, ``-name``
when there is no such thing (any more), ``shared`` when another process holds the socket, too, and
what it made is to live until both are dead, ``bye`` when nothing is left. ``~seconds kind:name …``
is of a class that is over: a child removes that while the owner goes on, and answers ``-name`` for
each that is gone, ``!name reason`` for what will not go in that time.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ACKNOWLEDGED = b"watching\n"
IGNORED = ("SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT", "SIGPIPE", "SIGTSTP")
_SUPERVISOR_SECONDS = 10
_AWAY_SECONDS = 120.0  # for a daemon that is away, and for things that do not go
_QUIET_SECONDS = 2.0  # without anything new
_NONE = "-"


def main(arguments: Sequence[str]) -> None:
    """Watch the owner at the other end of standard input.

    The arguments are the session's label (``name=value``), the number of the inherited pidfd or
    ``-``, that of the supervisor's pipe or ``-``, the seconds the owner may outlive it, and the way
    to the daemon.
    """
    label, pidfd, supervisor, grace, *way = arguments
    _detach()
    owner = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # whoever reads the owner's output must not wait for this process
        os.dup2(null, fd)
    os.close(null)
    os.write(owner, ACKNOWLEDGED)
    from .http_reaper import HttpReaper  # now: at the owner's death the files may be gone
    from .removal import ANSWER_SECONDS, remove_until_quiet

    reaper = HttpReaper(way, label, timeout=ANSWER_SECONDS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that remove
    messages = _wait(
        owner,
        way,
        pidfd=None if pidfd == _NONE else int(pidfd),
        supervisor=None if supervisor == _NONE else int(supervisor),
        grace=float(grace),
    )
    if messages.bye:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if supervisor != _NONE:  # it has closed its end, or is dead, once it has saved the logs
        poller = select.poll()
        poller.register(int(supervisor), select.POLLIN)
        poller.poll(_SUPERVISOR_SECONDS * 1000)
    remove_until_quiet(
        reaper,
        seconds=_AWAY_SECONDS,
        quiet=_QUIET_SECONDS,
        made=messages.made,
        intents=messages.intents,
        wait_for_daemon=True,
    )


def _detach() -> None:
    """Leave the owner's process tree and ignore what is meant for it.

    The watchdog must outlive a terminal that closes and a CI runner that signals all it can find;
    the owner then ends too, and so does the wait.
    """
    if os.fork():
        os._exit(0)
    for name in IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the owner had them blocked until here


def _wait(
    owner: int, way: Sequence[str], *, pidfd: int | None, supervisor: int | None, grace: float
) -> Messages:
    """Sleep until the owner is dead or said bye: all that it said."""
    poller = select.poll()
    poller.register(owner, select.POLLIN)
    if pidfd is not None:
        poller.register(pidfd, select.POLLIN)
        if supervisor is not None:
            poller.register(supervisor, 0)  # tells of the other end's closing only
    until = None
    messages = Messages()
    while True:
        left = None if until is None else 1000 * max(0.0, until - time.monotonic())
        ready = {fd for fd, _event in poller.poll(left)}
        if supervisor in ready:
            poller.unregister(supervisor)
            until = time.monotonic() + grace
            continue
        if not ready and pidfd is not None:
            until = None
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            continue
        dead = pidfd in ready
        if dead:
            os.set_blocking(owner, False)  # the last words may still lie in the socket
        ended = _read(owner, messages, everything=dead)
        if messages.shared and pidfd is not None:
            poller.unregister(pidfd)
            pidfd, dead = None, False
        if dead or ended or messages.bye:
            return messages
        while messages.over:
            _remove_aside(owner, way, messages.over.pop(0))


def _remove_aside(owner: int, way: Sequence[str], order: str) -> None:
    """Remove some things in a child: this process must see its owner's death meanwhile."""
    from .http_reaper import KnownThings
    from .removal import ANSWER_SECONDS, Thing, remove_until_quiet

    seconds, *named = order.split()
    pairs = [one.partition(":") for one in named]
    things = [Thing(kind, name, name) for kind, _, name in pairs]

    def tell(sign: str, thing: Thing) -> None:
        text = " ".join(f"{sign}{thing.name} {thing.reason}".split())
        os.write(owner, f"{text}\n".encode(errors="replace"))

    try:
        if os.fork():
            return
    except OSError as error:  # the machine is full of processes; its owner tries again at its end
        for thing in things:
            thing.reason = str(error)
            tell("!", thing)
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        known = KnownThings(
            way, things, timeout=ANSWER_SECONDS, gone=lambda thing: tell("-", thing)
        )
        try:
            remove_until_quiet(known, seconds=float(seconds))
        except OSError as error:
            for thing in known.listed():
                thing.reason = thing.reason or str(error)
        for thing in known.listed():
            tell("!", thing)
    finally:
        os._exit(0)


def _read(owner: int, messages: Messages, *, everything: bool) -> bool:
    """Take in what the owner wrote; True at the end of the socket."""
    while True:
        try:
            data = os.read(owner, 65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if not data:
            return True
        messages.feed(data)
        if not everything:
            return False


class Messages:
    """What the owner has written so far.

    Attributes:
        made: Name and kind of what it created, or began to.
        intents: The names of creates that are under way.
        over: What is to be removed while the owner goes on, an order each.
        shared: Whether the end of the socket alone tells that nobody needs it any more.
        bye: Whether nothing is left to do.
    """

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.intents: set[str] = set()
        self.over: list[str] = []
        self.shared = False
        self.bye = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take in some bytes, which may end in the middle of a line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            kind, _, name = text[1:].rpartition(" ")
            if text[:1] == "+":
                self.made[name] = kind
                self.intents.add(name)
            elif text[:1] == "=":
                self.made[name] = kind
                self.intents.discard(name)
            elif text[:1] == "-":
                self.made.pop(name, None)
                self.intents.discard(name)
            elif text[:1] == "~":
                self.over.append(text[1:])
            elif text == "shared":
                self.shared = True
            elif text == "bye":
                self.bye = True


if __name__ == "__main__":
    main(sys.argv[1:])
