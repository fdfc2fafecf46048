"""What `ci/engines` tries on an engine, and the table of it in the README of the engine's room.

``python -m tests.support.engines run NAME`` tries everything at DOCKER_HOST and keeps what came of
it; ``table`` writes the rows of the engines that ran into the README, and leaves the others' alone.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import docker.errors

from orchestrator.engine import connect
from orchestrator.images import find_lock
from orchestrator.settings import Settings
from tests.faults.daemon import Daemon
from tests.faults.process import OwnerProcess

ROOT: Final = Path(__file__).resolve().parents[2]
_README: Final = ROOT / "src/orchestrator/engine/README.md"
_KEPT: Final = ROOT / ".cache/engines"
_SECONDS: Final = 240.0  # for one step
_WHOLE: Final = "yes"

_DATABASE: Final = "tests.integration.test_postgres_isolation.DatabaseTest"
_DIAGNOSIS: Final = "tests.integration.test_diagnosis.DiagnosisTest"
_TRANSACTION: Final = "tests.integration.test_postgres_transaction.TransactionTest"
# What is tried by tests that are there anyway: only what an engine may do in its own way.
_TESTS: Final[Mapping[str, Sequence[str]]] = {
    "full stack": ["tests.examples.test_full_stack"],  # with the isolation of Redis and Kafka
    "API": ["tests.contract.test_engine.EngineContractTest"],
    "isolation": [
        "tests.integration.test_postgres_leftovers.SchemaLeftoversTest",
        f"{_DATABASE}.test_tests_do_not_see_each_others_work",
        f"{_TRANSACTION}.test_nested_transactions_of_the_user_work",
    ],
    "faults": ["tests.integration.test_faults.FaultsTest"],
    "`exec`, files": [
        "tests.integration.test_inside.InsideTest",
        "tests.integration.test_inside.HiddenTest",
    ],
    "limits, security": [
        "tests.integration.test_container.ContainerTest",
        "tests.integration.test_container.BrokenTest",
        "tests.integration.test_container_security.ContainerSecurityTest",
    ],
    "webhook": ["tests.examples.test_webhook"],
    "builds": ["tests.integration.test_container.BuildTest"],
    "Compose": ["tests.integration.test_compose.ComposeTest"],
    "diagnosis": [f"{_DIAGNOSIS}.test_what_a_server_met_with", f"{_DIAGNOSIS}.test_who_killed_it"],
    "`kill -9`": ["tests.faults.test_sudden_death.SuddenDeathTest.test_r06_sigkill"],
}
_COMMANDS: Final = ("pull", "doctor", "lock", "save, load", "reap")
_COLUMNS: Final = (*_COMMANDS, *_TESTS)
# What is not tried: where memory cannot be limited (rootless, without control groups of version 2)
# a test would take all of the machine's.
_LEFT_OUT: Final[Mapping[str, Sequence[str]]] = {
    "docker-rootless": ["diagnosis"],
    "podman-rootless": ["diagnosis"],
}
# In a machine that is emulated everything takes ten times as long: what control groups decide.
_EMULATED: Final = "vm"
_CONTROLLED: Final[Mapping[str, Sequence[str]]] = {
    "API": [f"{_TESTS['API'][0]}.test_a_container_is_running_until_it_is_killed"],
    "faults": [f"{_TESTS['faults'][0]}.test_a_paused_server_accepts_and_is_silent"],
    "limits, security": [f"{_TESTS['limits, security'][0]}.test_limits_are_in_force"],
    "diagnosis": _TESTS["diagnosis"],
    "`kill -9`": _TESTS["`kill -9`"],
}
# Tests of what an engine cannot do; the README says why.
_CANNOT: Final[Mapping[str, Sequence[str]]] = {
    "docker-rootless": [
        "test_a_container_is_running_until_it_is_killed",  # pausing
        "test_a_paused_server_accepts_and_is_silent",
        "test_limits_are_in_force",
        "test_limits_and_the_rest_are_in_force",
    ],
    "podman-4": ["test_a_service_that_is_read_only_has_its_files_all_the_same"],
    "podman-rootless": [
        "test_a_container_is_running_until_it_is_killed",  # pausing
        "test_a_paused_server_accepts_and_is_silent",
        "test_a_link_that_loses_everything_times_out",  # slowed()
        "test_answers_are_late_on_connections_that_are_open_already",
        "test_a_killed_server_refuses_and_comes_back_as_it_was",
        "test_data_arrives_whole",
        "test_the_helper_of_slowed_may_do_just_its_work",
        "test_limits_are_in_force",
        "test_limits_and_the_rest_are_in_force",
    ],
}
_IMAGES: Final = ("kafka", "postgres", "python", "redis")  # those of _CONTROLLED last


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _command(*argv: str, lock: Path | None = None, seconds: float = _SECONDS) -> None:
    """Run one of our commands, perhaps with another lock file."""
    ran = subprocess.run(
        [sys.executable, "-m", "orchestrator", *argv],
        cwd=ROOT,
        env={**os.environ, **({"ORCHESTRATOR_IMAGES_LOCK": str(lock)} if lock else {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    said = ran.stderr or ran.stdout
    assert ran.returncode == 0, f"`{argv[0]}` ended with {ran.returncode}: {said}"


def _lock_of_some(name: str) -> Path:
    """A lock file of the images that are used on an engine."""
    names = _IMAGES[-1:] if name == _EMULATED else _IMAGES
    whole = find_lock(Settings.from_environment()).text
    head, *entries = whole.split("\n[images.")
    path = _KEPT / f"{name}.lock"
    kept = [it for it in entries if it.partition("]")[0] in names]
    path.write_text("\n[images.".join([head, *kept]))
    return path


def _save_and_load() -> None:
    """An image that was saved is usable after its removal, in a class too."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Daemon().client) as client:
        lock, archive = Path(folder) / "images.lock", Path(folder) / "saved.tar"
        found = find_lock(Settings.from_environment()).entries["python"].reference
        lock.write_text(
            f'version = 1\n[images.python]\nreference = "{found.tagged}"\n'
            f'digest = "{found.digest}"\n'
        )
        _command("lock", lock=lock)  # notes the digests by which it is known after `load`
        _command("save", str(archive), lock=lock)
        _remove_image(client, found.pinned)
        _command("load", str(archive), lock=lock)
        _command("doctor", lock=lock)  # which misses no image
        _remove_image(client, found.tagged)
        _command("pull", "python")  # Podman has packed the loaded one in its own way


def _remove_image(client: Any, name: str) -> None:
    client.remove_image(client.inspect_image(name)["Id"], force=True)
    with contextlib.suppress(docker.errors.NotFound):
        client.inspect_image(name)
        raise AssertionError(f"{name} is still there")


def _reap() -> None:
    """What an owner left whose watchdog was killed with it is removed."""
    daemon, run = Daemon(), str(uuid.uuid4())
    with contextlib.closing(daemon.client), contextlib.ExitStack() as undo:
        image = daemon.image()
        undo.callback(daemon.remove_image, image)
        undo.callback(daemon.remove_all, run)
        owner = OwnerProcess(
            "wait",
            options={"image": image, "judged": True, "containers": 2},
            env={"ORCHESTRATOR_RUN": run},
        )
        undo.callback(owner.close)
        owner.expect("ready")
        for pid in (*owner.watchdogs(), owner.pid):
            os.kill(pid, signal.SIGKILL)
        owner.wait()
        assert daemon.left(run), "nothing was left"
        _command("reap")
        assert not daemon.left(run), f"left: {daemon.left(run)}"


def _failures(step: Callable[[], None]) -> list[str]:
    try:
        step()
    except (
        AssertionError,
        OSError,
        docker.errors.DockerException,
        subprocess.TimeoutExpired,
    ) as error:
        return [str(error)]
    return []


def _run_tests(
    tests: Mapping[str, Sequence[str]], *, jobs: int, seconds: float
) -> dict[str, tuple[int, list[str]]]:
    """How many tests of each column ran, and what the failed ones said."""
    report = _KEPT / f"junit-{os.getpid()}.xml"
    names = [name for each in tests.values() for name in each]
    argv = ["test", "-j", str(jobs), "--timeout", str(int(seconds)), "--junit", str(report)]
    subprocess.run([sys.executable, "-m", "orchestrator", *argv, *names], cwd=ROOT, check=False)
    found: dict[str, tuple[int, list[str]]] = {column: (0, []) for column in tests}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        told = next((each for tag in ("failure", "error") for each in case.iter(tag)), None)
        skipped = case.find("skipped")
        for column, wanted in tests.items():
            if any(name == it or name.startswith(f"{it}.") for it in wanted):
                count, failed = found[column]
                if told is not None:
                    failed = [*failed, f"{case.get('name')}: {told.get('message') or told.text}"]
                elif skipped is not None and skipped.get("type") != "not-run":
                    continue  # it says itself that it has nothing to try here
                elif skipped is not None:
                    failed = [*failed, f"{case.get('name')}: {skipped.get('message')}"]
                found[column] = (count + 1, failed)
    report.unlink()
    return found


def run(name: str) -> int:
    """Try everything on the engine at DOCKER_HOST; the number of cells that are not as expected."""
    began = time.monotonic()
    _KEPT.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(connect(Settings.from_environment())) as engine:
        about = engine.info()
    cells: dict[str, tuple[int, list[str]]] = {}
    jobs, seconds = (os.cpu_count() or 1) + 1, _SECONDS
    tests = {it: of for it, of in _TESTS.items() if it not in _LEFT_OUT.get(name, ())}
    columns = [*_COMMANDS, *tests]
    if name == _EMULATED:
        jobs, seconds = 1, 10 * _SECONDS
        tests = dict(_CONTROLLED)
        columns = ["pull", "doctor", *tests]
    os.environ["ORCHESTRATOR_IMAGES_LOCK"] = str(_lock_of_some(name))
    commands: dict[str, Callable[[], None]] = {
        "pull": lambda: _command("pull", seconds=seconds),
        "doctor": lambda: _command("doctor", seconds=seconds),
        "lock": lambda: _command("lock", "--check"),
        "save, load": _save_and_load,
        "reap": _reap,
    }
    for column in [it for it in columns if it in commands]:
        cells[column] = (1, _failures(commands[column]))
        _say(f"{name}: {column}: {cells[column][1] or _WHOLE}")
    cells |= _run_tests(tests, jobs=jobs, seconds=seconds)
    _KEPT.joinpath(f"{name}.json").write_text(
        json.dumps(
            {
                "engine": f"{about.product} {re.split('[+~-]', about.version)[0]}",
                "date": datetime.now(UTC).date().isoformat(),
                "seconds": round(time.monotonic() - began),
                "cells": cells,
            }
        )
    )
    wrong = 0
    for column in columns:
        count, failed = cells[column]
        possible = [it for it in failed if it.partition(":")[0] not in _CANNOT.get(name, ())]
        wrong += bool(possible) or not count
        for told in failed:
            _say(f"{name}: {column}: {told}")
        if not count:
            _say(f"{name}: {column}: nothing ran")
    return wrong


def _cell(count: int, failed: Sequence[str]) -> str:
    if not count:
        return "-"
    if not failed:
        return _WHOLE
    return f"{count - len(failed)} of {count}" if count > 1 else "no"


def table(names: Sequence[str]) -> None:
    """Write the rows of these engines into the README, unless in CI, and print them all."""
    text = _README.read_text()
    head, begin, rest = text.partition("<!-- made by ci/engines -->\n")
    old, end, tail = rest.partition("<!-- until here -->\n")
    assert end, f"{_README} has no place for the table"
    rows = {
        line.split("|")[1].strip().strip("`"): line
        for line in old.splitlines()
        if line.startswith("| `")
    }
    for name in names:
        kept = json.loads((_KEPT / f"{name}.json").read_text())
        cells = [_cell(*kept["cells"].get(column, (0, []))) for column in _COLUMNS]
        about = [f"`{name}`", kept["engine"], *cells, kept["date"]]
        rows[name] = f"| {' | '.join(about)} |"
    title = f"| name | engine | {' | '.join(_COLUMNS)} | ran on |"
    line = "|---" * (len(_COLUMNS) + 3) + "|"
    made = "\n".join([title, line, *(rows[name] for name in sorted(rows))])
    if os.environ.get("CI") != "true":
        _README.write_text(f"{head}{begin}\n{made}\n\n{end}{tail}")
    _say(made)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(sys.argv[2]) > 0)
    table(sys.argv[2:])
