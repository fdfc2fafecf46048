"""Look for what is wrong with this machine's Docker, and say the command that mends it.

exit status: 0 when nothing is wrong, 1 otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from orchestrator.cli.checkup import check_credentials, check_disk, check_images, check_leftovers
from orchestrator.cli.checkup_daemon import check_daemon, check_socket
from orchestrator.cli.finding import Finding
from orchestrator.engine import connect, find_endpoint
from orchestrator.errors import EngineError, SettingsError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# A healthy daemon answers in milliseconds; who asks the doctor does not want to wait a minute.
_PATIENCE = 10.0  # seconds


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Examine, and print each finding as it is made."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return 1 if any(finding.mend for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Check one thing after the other; what needs the daemon is left out when there is none."""
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        name = str(error).partition("=")[0]
        yield Finding(about="settings", text=str(error), mend=f"unset {name}")
        return
    settings = dataclasses.replace(settings, engine_timeout=min(settings.engine_timeout, _PATIENCE))
    try:
        endpoint = find_endpoint()
    except EngineError as error:
        yield Finding(about="daemon", text=str(error), mend="docker context ls; unset DOCKER_HOST")
        return
    yield from check_credentials()
    if problem := check_socket(endpoint):
        yield problem
        return
    with contextlib.closing(connect(settings, endpoint=endpoint)) as engine:
        found = check_daemon(engine, endpoint)
        yield found.finding
        if not found.answers:
            return
        if found.info is not None:
            yield check_disk(found.info, endpoint)
        yield from check_images(engine, settings)
        yield check_leftovers(engine)
