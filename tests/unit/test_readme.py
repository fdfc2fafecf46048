"""The README tells the truth."""

from __future__ import annotations

import dataclasses
import re
import unittest
from importlib.metadata import metadata
from pathlib import Path

import orchestrator
from orchestrator import Container, Kafka, Postgres, Redis, Redpanda, Service, cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


HOOKS = (ROOT / "src/orchestrator/services/README.md").read_text(encoding="utf-8")


def told(text: str) -> set[str]:
    """The names that stand in backticks, such as ``logs()`` and ``with db.paused():``."""
    return set(re.findall(r"`(?:with )?(?:db\.)?([a-z_]+)\b[^`]*`", text))


def row(service: type[Service]) -> str:
    """What the table of services has of one."""
    [line] = re.findall(rf"^\| `{service.__name__}` \|(.*)$", README, re.MULTILINE)
    return str(line)


def options(service: type[Service]) -> set[str]:
    """The names of a service's options."""
    return {item.name for item in dataclasses.fields(service) if item.init}


class ReadmeTest(unittest.TestCase):
    """What the README names exists, and what exists it names."""

    def test_every_link_leads_to_a_file(self) -> None:
        """Relative links point to what is there, on every page."""
        pages = [page for room in ("src", "tests", "ci") for page in (ROOT / room).rglob("*.md")]
        self.assertGreater(len(pages), 5)
        for page in (ROOT / "README.md", *pages):
            links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
            missing = [link for link in links if not (page.parent / link).exists()]
            self.assertEqual([], missing, page)

    def test_the_packages_page_has_no_relative_link(self) -> None:
        """On a page of PyPI, a relative link leads nowhere; the package has its text installed."""
        package = metadata("unittest-orchestrator")
        [source] = [url for url in package.get_all("Project-URL") or () if "Source" in url]
        home = source.removeprefix("Source, ")
        self.assertIn(f"]({home}/blob/main/src/orchestrator/", package["Description"])
        self.assertEqual([], re.findall(r"\]\(([^):]+)\)", package["Description"]))

    def test_every_command_has_a_row(self) -> None:
        """The table of commands is complete."""
        rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
        self.assertEqual([], [name for name in cli.COMMANDS if f"`{name}`" not in rows])

    def test_every_option_of_every_service_is_named(self) -> None:
        """Common options have rows; a service's own stand in its row."""
        common = options(Service)
        for name in common:
            self.assertIn(f"| `{name}` |", README)
        for service in (Postgres, Redis, Kafka, Container):
            self.assertEqual(set(), options(service) - common - told(row(service)), service)

    def test_every_public_name_of_a_service_is_named(self) -> None:
        """Completion after ``self.db.`` shows what README has, the hooks, and nothing else."""
        rows = "".join(re.findall(r"^\| (`[a-z_]+`) \|", README, re.MULTILINE))
        [running] = re.findall(r"and, while it runs, (.*?)Ports stay", README, re.DOTALL)
        hooks = "".join(re.findall(r"^\| (`[a-z_]+`.*?) \|", HOOKS, re.MULTILINE))
        [tools] = re.findall(r"^They work with (.*?)\n\n", HOOKS, re.DOTALL | re.MULTILINE)
        common = told(rows) - {*cli.COMMANDS} | told(running) | told(hooks)
        common |= {"running", "state", "copy_with"} & told(tools)
        for service in (Service, Container, Postgres, Redis, Kafka, Redpanda):
            own = told(row(service)) if service is not Service else set()
            own |= told(row(Kafka)) if service is Redpanda else set()
            names = {name for name in dir(service) if not name.startswith("_")} | options(service)
            self.assertEqual(sorted(common | own), sorted(names), service.__name__)

    def test_every_public_name_is_there(self) -> None:
        """What the package promises can be imported, in order."""
        self.assertEqual(sorted(orchestrator.__all__), orchestrator.__all__)
        for name in orchestrator.__all__:
            self.assertTrue(hasattr(orchestrator, name), name)
