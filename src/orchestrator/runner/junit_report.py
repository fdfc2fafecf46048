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
from orchestrator.runner.results import Outcome, Output

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.runner.results import Problem, Record, Results, UnitResult

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
    for result in results.units:
        grouped: dict[str, list[Record]] = defaultdict(list)
        for record in result:
            grouped[record.test.owner].append(record)
        # what printed or failed outside of any class has its own entry
        for owner in [*(owner or result.unit.key for owner, _ in result.fixtures), *result.outputs]:
            grouped[owner]
        for owner, records in grouped.items():
            suite = _add(root, "testsuite", name=owner, timestamp=started)
            suite.set("hostname", socket.gethostname())
            _fill(suite, result, owner, records)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    return root


def _fill(suite: ET.Element, result: UnitResult, owner: str, records: list[Record]) -> None:
    if path := result.unit.files.get(owner):
        suite.set("file", _clean(path))
    if facts := result.facts.get(owner):
        properties = _add(suite, "properties")
        for name, value in facts.items():
            _add(properties, "property", name=name, value=value)
    for record in records:
        _add_case(suite, owner, record)
    for place, problem in result.fixtures:
        if (place or result.unit.key) == owner:
            name = problem.title.partition(" (")[0]
            case = _add(suite, "testcase", classname=owner, name=name, time="0.000")
            _add_problem(case, problem)
    output = result.outputs.get(owner, Output())
    for name, text in (("system-out", output.out), ("system-err", output.err)):
        if text:
            _add(suite, name, text)
    seconds = result.seconds.get(owner, sum(record.seconds for record in records))
    suite.set("time", f"{seconds:.3f}")
    cases = list(suite.iter("testcase"))
    suite.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        # a test with two failing subtests is one failed test
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))


def _add_case(suite: ET.Element, owner: str, record: Record) -> None:
    name = record.test.id.removeprefix(f"{owner}.")
    case = _add(suite, "testcase", classname=owner, name=name, time=f"{record.seconds:.3f}")
    for problem in record.problems:
        _add_problem(case, problem)
    for problem in record.earlier:  # as Maven's surefire tells it
        kind = "flaky" if record.flaky else "rerun"
        tag = "Error" if problem.outcome is Outcome.ERROR else "Failure"
        before = _add(case, f"{kind}{tag}", type=problem.kind, message=problem.message)
        _add(before, "stackTrace", problem.details)
    if record.outcome in (Outcome.SKIPPED, Outcome.NOT_RUN, Outcome.EXPECTED_FAILURE):
        words = {Outcome.SKIPPED: "", Outcome.NOT_RUN: "not run: "}
        message = words.get(record.outcome, record.outcome.value) + record.reason
        _add(case, "skipped", type=record.outcome.value.replace(" ", "-"), message=message)


def _add_problem(case: ET.Element, problem: Problem) -> None:
    tag = "error" if problem.outcome is Outcome.ERROR else "failure"
    _add(case, tag, problem.details, type=problem.kind, message=problem.message)


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    """Add an element; what XML forbids is shown as Python would write it."""
    cleaned = {name: _clean(value) for name, value in attributes.items()}
    element = ET.SubElement(parent, tag, cleaned)
    element.text = _clean(text) or None
    return element


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)
