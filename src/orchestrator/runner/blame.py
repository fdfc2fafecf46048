"""What to say about a worker that did not end as it should."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from orchestrator.runner.member import Ending
from orchestrator.runner.outcome import Outcome, Problem
from orchestrator.runner.output import Written
from orchestrator.runner.protocol import LOST_CONTACT

if TYPE_CHECKING:
    from orchestrator.runner.member import Member

_LAST_LINES: Final = 60
_KILL_HINT: Final = "; if nobody killed it, the kernel did for lack of memory: see dmesg"


def how_it_ended(member: Member, status: int) -> str:
    """Say in words how a worker ended.

    Args:
        member: The worker.
        status: Its exit status; a negative one is a signal.
    """
    if status == LOST_CONTACT:
        return "lost its connection to the runner (did a test close descriptors not its own?)"
    if status < 0:
        hint = _KILL_HINT if -status == signal.SIGKILL and not member.killed else ""
        return f"was killed by {_signal_name(-status)}{hint}"
    return f"exited with status {status}"


def from_outside(member: Member, status: int | None) -> bool:
    """Whether somebody else ended a worker: that proves nothing against the code it ran.

    Args:
        member: The worker.
        status: Its exit status; None when it was interrupted and has torn down.
    """
    outside = (None, -signal.SIGKILL, -signal.SIGTERM)
    return member.ending is Ending.NONE and status in outside


def crash(
    member: Member, *, status: int | None, timeout: float | None, salvaged: str, trace: str
) -> Problem:
    """The problem of the test, or of the fixture, at which a worker died or hung.

    Args:
        member: The worker; ``ordinal`` and ``phase`` say where it was.
        status: Its exit status; None when it was interrupted and has torn down.
        timeout: The seconds each class has.
        salvaged: What the logs of its services said.
        trace: Where it was interrupted, as a traceback.
    """
    title = place(member)
    where = _first_line(member.running or title)
    worker = f"worker {member.number} (pid {member.process.pid})"
    if member.ending is Ending.TIMEOUT:
        kind = "TimedOut"
        said = f"{where} hung: its class took more than {timeout:g} s (--timeout)"
    elif status is None:
        kind = "Interrupted"
        said = f"KeyboardInterrupt in {where}: it ends the run, as under unittest"
    else:
        kind = "Crashed"
        said = f"{worker} {how_it_ended(member, status)} in {where}"
    text = f"{said}\n"
    if kind == "Interrupted":
        text += f"\n{trace}"
    if tail := last_lines(str(member.process.output.read(member.began))):
        text += f"\nLast output of the worker:\n{tail}\n"
    if salvaged:
        text += f"\n{salvaged}\n"
    return Problem(outcome=Outcome.ERROR, title=title, kind=kind, message=said, text=text)


def failed_start(member: Member, *, status: int, seconds: float | None) -> str:
    """What to say about a worker that ended while it collected.

    Args:
        member: The worker.
        status: Its exit status; a negative one is a signal.
        seconds: The seconds it had for it.
    """
    if member.ending is Ending.TIMEOUT:
        said = f"Collecting the tests took more than {seconds:g} s, the most that --timeout allows"
    else:
        said = f"A worker {how_it_ended(member, status)} while it collected the tests"
    tail = last_lines(str(member.process.output.read(Written())))
    return f"{said}\n\nLast output of the worker:\n{tail}\n" if tail else f"{said}\n"


def overtime(member: Member, timeout: float | None) -> Problem:
    """The problem of a class that took too long, and went on before it could be interrupted.

    It is the class's: the test that hung went on to an outcome of its own.
    """
    account = member.account
    tests = account.unit.tests if account is not None else ()
    where = member.hung_at if member.hung_in is None else _first_line(tests[member.hung_in].title)
    title = f"timeout ({member.owner})"
    said = f"{where} hung for a while: its class took more than {timeout:g} s (--timeout)"
    tail = last_lines(str(member.process.output.read(member.shown)))
    text = f"{said}\n\nLast output of the worker:\n{tail}\n" if tail else f"{said}\n"
    return Problem(outcome=Outcome.ERROR, title=title, kind="TimedOut", message=said, text=text)


def mismatch(member: Member, text: str) -> Problem:
    """The problem of a unit that two workers collected differently."""
    title = f"collection of {place(member)}"
    return Problem(
        outcome=Outcome.ERROR, title=title, kind="CollectedDifferently", message=text, text=text
    )


def place(member: Member) -> str:
    """Where a worker is: the test, else the fixture, else the unit."""
    account = member.account
    if account is None:
        return "collection"
    if member.ordinal is not None:
        return account.unit.tests[member.ordinal].title
    return member.phase or account.unit.key


def last_lines(output: str) -> str:
    """The end of some output, indented."""
    lines = output.rstrip().splitlines()[-_LAST_LINES:]
    return "\n".join(f"    {line}" for line in lines)


def _first_line(title: str) -> str:
    return title.partition("\n")[0]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
