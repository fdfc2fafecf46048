"""JUnit XML, in the dialect that GitLab, Jenkins and the GitHub reporters read.

There is no standard; what they share is Jenkins' ``junit-10.xsd``: one ``testsuite`` per class, its
``testcase`` elements, properties first, ``system-out`` and ``system-err`` last.
"""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from orchestrator.files import replacing
from orchestrator.runner.results import Outcome, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.runner.results import Record, Results, UnitResult

# XML 1.0 has no way to write these, escaped or not.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(results: Results, path: Path) -> None:
    """Write the report of a run, in one piece.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    document = ET.ElementTree(_report(results))
    ET.indent(document, " ")
    with replacing(path) as file:
        document.write(file, encoding="utf-8", xml_declaration=True)


def _report(results: Results) -> ET.Element:
    root = ET.Element("testsuites", name="orchestrator", time=f"{results.seconds:.3f}")
    started = datetime.fromtimestamp(results.started, UTC).isoformat(timespec="seconds")
    common = {"timestamp": started, "hostname": socket.gethostname()}
    if results.trouble:
        figures = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0.000"}
        suite = ET.SubElement(root, "testsuite", {"name": "collection", **figures, **common})
        text = results.trouble
        message = text.strip().splitlines()[-1]
        problem = Problem(
            outcome=Outcome.ERROR,
            title="collection",
            kind="NotCollected",
            message=message,
            text=text,
        )
        suite.append(_fixture("collection", problem))
    for result in results.units:
        for owner, records in _by_owner(result).items():
            root.append(_suite(result, owner, records, common))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    return root


def _by_owner(result: UnitResult) -> dict[str, list[Record]]:
    """The records by class; what printed or failed outside of any class has its own entry."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in result:
        grouped[record.test.owner].append(record)
    for owner in [*(owner or result.unit.key for owner, _ in result.fixtures), *result.outputs]:
        grouped[owner]
    return grouped


def _suite(
    result: UnitResult, owner: str, records: list[Record], common: dict[str, str]
) -> ET.Element:
    suite = ET.Element("testsuite", {"name": _clean(owner), **common})
    if path := result.unit.files.get(owner):
        suite.set("file", _clean(path))
    if facts := result.facts.get(owner):
        properties = ET.SubElement(suite, "properties")
        for name, value in facts.items():
            ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    suite.extend(_case(owner, record) for record in records)
    fixtures = [p for place, p in result.fixtures if (place or result.unit.key) == owner]
    suite.extend(_fixture(owner, problem) for problem in fixtures)
    if output := result.outputs.get(owner):
        for name, text in (("system-out", output.out), ("system-err", output.err)):
            if text:
                ET.SubElement(suite, name).text = _clean(text)
    seconds = result.seconds.get(owner, sum(record.seconds for record in records))
    suite.set("time", f"{seconds:.3f}")
    suite.set("tests", str(len(records) + len(fixtures)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        # a test with two failing subtests is one failed test
        suite.set(name, str(sum(case.find(tag) is not None for case in suite.iter("testcase"))))
    return suite


def _case(owner: str, record: Record) -> ET.Element:
    name = record.test.id.removeprefix(f"{owner}.")
    case = ET.Element("testcase", classname=_clean(owner), name=_clean(name))
    case.set("time", f"{record.seconds:.3f}")
    for problem in record.problems:
        case.append(_problem(problem))
    if record.outcome in (Outcome.SKIPPED, Outcome.NOT_RUN, Outcome.EXPECTED_FAILURE):
        words = {Outcome.SKIPPED: "", Outcome.NOT_RUN: "not run: "}
        message = words.get(record.outcome, record.outcome.value) + record.reason
        kind = record.outcome.value.replace(" ", "-")
        ET.SubElement(case, "skipped", type=kind, message=_clean(message))
    return case


def _fixture(owner: str, problem: Problem) -> ET.Element:
    name = problem.title.partition(" (")[0]
    case = ET.Element("testcase", classname=_clean(owner), name=_clean(name), time="0.000")
    case.append(_problem(problem))
    return case


def _problem(problem: Problem) -> ET.Element:
    tag = "error" if problem.outcome is Outcome.ERROR else "failure"
    element = ET.Element(tag, type=_clean(problem.kind), message=_clean(problem.message))
    element.text = _clean(problem.text or problem.message)
    return element


def _clean(text: str) -> str:
    """Show what XML forbids as Python would write it."""
    return _FORBIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)
