"""Whether the owner of something is alive: yes, no, or cannot be told from here.

Only a proof counts as dead. Age is none, and a free pid is none by itself. What cannot be proved
(another host, another container seen from inside a container, another user's hidden process) is
"unknown", and unknown owners are left alone.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.identity import pid_namespace, process_start

if TYPE_CHECKING:
    from orchestrator.sessions.identity import Identity

_PROC: Final = Path("/proc")
_INITIAL_PIDNS: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO in the kernel's proc_ns.h


class Liveness(StrEnum):
    """What is known about an owner."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"  # its label cannot be read


def liveness(owner: Identity, *, here: Identity) -> Liveness:
    """Judge an owner from the process ``here``."""
    if not owner.boot or not here.boot:
        return Liveness.UNKNOWN
    if owner.boot != here.boot:
        return Liveness.DEAD if _same_machine(owner, here) else Liveness.UNKNOWN
    if owner.pidns == here.pidns:
        return _in_our_namespace(owner)
    return _in_another_namespace(owner, here=here)


def _same_machine(owner: Identity, here: Identity) -> bool:
    """Whether a different boot id means "before the reboot" and not "on another machine".

    The host name alone proves nothing: a farm of machines may share it. Without a machine id
    (containers often have none) nothing can be said.
    """
    machine = here.host.rpartition("/")[2]
    return bool(machine) and owner.host == here.host


def _in_our_namespace(owner: Identity) -> Liveness:
    if _proc_is_foreign():
        return Liveness.UNKNOWN
    try:
        start = process_start(owner.pid)
    except PermissionError:
        return Liveness.UNKNOWN
    if start is None:
        return Liveness.UNKNOWN if _hidden(owner.pid) else Liveness.DEAD
    if start == owner.start:
        return Liveness.ALIVE
    return Liveness.UNKNOWN if _clocks_differ(owner.pid) else Liveness.DEAD


def _in_another_namespace(owner: Identity, *, here: Identity) -> Liveness:
    """Search every process we can see for one with the owner's namespace, pid and start time.

    Only from the initial namespace, and with all of /proc visible, "not found" is "not there".
    """
    pids = [path.name for path in _PROC.iterdir() if path.name.isdigit()]
    blind = here.pidns != _INITIAL_PIDNS or _proc_is_foreign() or "1" not in pids
    for pid in pids:
        try:
            found = _nested_pid(pid) == owner.pid and _started(pid, owner)
            if found and pid_namespace(pid) == owner.pidns:
                return Liveness.ALIVE
        except PermissionError:  # that of a namespace takes more rights than the rest
            blind = True
        except (ProcessLookupError, FileNotFoundError):
            continue
    return Liveness.UNKNOWN if blind else Liveness.DEAD


def _started(pid: str, owner: Identity) -> bool:
    start = process_start(pid)
    if start is not None and start != owner.start and _clocks_differ(pid):
        raise PermissionError(pid)  # as good as hidden
    return start == owner.start


def _nested_pid(pid: str) -> int | None:
    """The pid inside a namespace below ours (proc(5), NSpid), None for those in ours."""
    for line in (_PROC / pid / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("NSpid:"):
            _label, *pids = line.split()
            return int(pids[-1]) if len(pids) > 1 else None
    return None


def _proc_is_foreign() -> bool:
    """Whether /proc shows another namespace's pids (unshare without a new mount of /proc)."""
    try:
        return str((_PROC / "self").readlink()) != str(os.getpid())
    except OSError:
        return False


def _hidden(pid: int) -> bool:
    """Whether a process exists although /proc does not show it (mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    try:  # it is there: it became visible, or ended (a zombie still takes signals), meanwhile
        return process_start(pid) is not None
    except PermissionError:
        return True


def _clocks_differ(pid: int | str) -> bool:
    """Whether start times cannot be compared: time namespaces shift them (time_namespaces(7))."""
    try:
        return _time_namespace(pid) != _time_namespace("self")
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def _time_namespace(pid: int | str) -> int:
    return (_PROC / str(pid) / "ns" / "time").stat().st_ino
