"""The package as a whole: its import, names and settings; and its README tells the truth."""

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
import unittest
from importlib import metadata
from pathlib import Path

import orchestrator
from orchestrator import (
    Container,
    Kafka,
    Postgres,
    Redis,
    Redpanda,
    Service,
    Services,
    ServicesMixin,
    cli,
)
from orchestrator.errors import DeclarationError, SettingsError
from orchestrator.settings import Settings
from tests.support.processes import run_command

_DECLARATIONS = """
    import unittest
    from orchestrator import *
    from orchestrator.probes import Http, LogLine

    class EverythingTest(ServicesMixin, unittest.TestCase):
        db = Postgres(isolation="database", migrate=print, init=["/nowhere/at-all.sql"])
        cache = Redis(maxmemory="2mb", maxmemory_policy="allkeys-lru")
        events = Kafka(memory="512m", depends_on=[db])
        web = Container(image="nginx:1.27-alpine", ports=[80], probe=Http("/"))
        job = Container(image="busybox:1.36", probe=LogLine("done"), files={"/a": "/nowhere"})

        def test_nothing(self): ...
"""
# Counts, from here on, what a program does to the world outside of itself.
_WATCH = """
    import json, sys

    before, deeds = set(sys.modules), []

    def watch(event, arguments):
        if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn")):
            deeds.append(event)
        if event == "open":
            path, mode, _ = arguments
            reads_code = str(path).endswith((".py", ".pyc", ".so"))
            if not reads_code or set(mode or "") & set("wax+"):
                deeds.append(f"open {path}")

    sys.addaudithook(watch)
"""
_TELL = """
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    own = {"orchestrator", "_missing_stdlib_info"}  # this is 3.15's
    foreign = sorted(loaded - sys.stdlib_module_names - own)
    print(json.dumps({"foreign": foreign, "loaded": sorted(loaded), "deeds": deeds}))
"""


def told(code: str) -> dict[str, list[str]]:
    """What some code loads and does, in a new Python."""
    script = "\n".join(map(textwrap.dedent, (_WATCH, code, _TELL)))
    done = subprocess.run(  # -B: the first import would write byte code
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


BAD = {
    "ORCHESTRATOR_UNLOCKED": "maybe",
    "ORCHESTRATOR_PULL": "always",
    "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "perhaps",
    "ORCHESTRATOR_SUBNETS": "10.0.0.0/30",
    "ORCHESTRATOR_ENGINE_TIMEOUT": "-1",
    "ORCHESTRATOR_LOG_LINES": "many",
    "ORCHESTRATOR_REGISTRIES": "https://ghcr.io",
    "ORCHESTRATOR_HOST": "tcp://build.example:2375",
}


class PackageTest(unittest.TestCase):
    """Its import, names and settings."""

    def test_declaring_loads_and_does_nothing(self) -> None:
        """For all of `__all__`: no driver, nothing heavy; no network, file or process."""
        found = told(_DECLARATIONS)
        self.assertEqual([], found["foreign"])
        heavy = {"asyncio", "concurrent", "http", "ssl", "subprocess", "tempfile"}
        self.assertEqual(set(), heavy & set(found["loaded"]))
        self.assertEqual([], found["deeds"])

    def test_an_engine_loads_no_paramiko(self) -> None:
        """Half of docker-py's import is for addresses that few have; it works there without."""
        code = """
            import sys
            from types import ModuleType
            sys.modules["paramiko"] = ModuleType("paramiko")
            from orchestrator.engine.docker import Engine
            assert "docker.transport.sshconn" not in sys.modules
            import docker
            docker.APIClient("ssh://me@far", version="1.40", use_ssh_client=True).close()
            assert "docker.transport.sshconn" in sys.modules
        """
        self.assertIn("docker", told(code)["foreign"])

    def test_names_of_the_library(self) -> None:
        """Its classes, options, attributes, and the services of a class or without one."""

        class CheckoutTest(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None: ...

        class Shop(Services):
            cache = Redis()

        for typo, expected in (
            (lambda: CheckoutTest("test_it").cahce, "no attribute 'cahce'; did you mean 'cac"),  # type: ignore[attr-defined]
            (lambda: Shop().cahce, "no attribute 'cahce'; did you mean 'cac"),  # type: ignore[attr-defined]
            (lambda: orchestrator.Postgress, "did you mean 'Postgres'?"),
            (lambda: Postgres(databse="x"), "did you mean 'database'?"),  # type: ignore[call-arg]
            (lambda: Postgres().enginee, "'Postgres' object has no attribute 'enginee'; did you"),  # type: ignore[attr-defined]
            (lambda: Redis().nothing_like_it, "has no attribute 'nothing_like_it'$"),  # type: ignore[attr-defined]
        ):
            with self.subTest(expected), self.assertRaises(Exception) as caught:
                typo()
            self.assertIsInstance(caught.exception, (AttributeError, DeclarationError))
            self.assertRegex(str(caught.exception), expected.replace("?", r"\?"))

    def test_commands(self) -> None:
        """An unknown command is named with the nearest, or with all there are."""
        for command, expected in (("pul", "did you mean 'pull'?"), ("x", "there are doctor, load")):
            status, _, err = run_command(command)
            self.assertEqual(2, status)
            self.assertIn(f"there is no command '{command}'; {expected}", err)

    def test_a_malformed_value_names_its_variable(self) -> None:
        """Every bad value is an error that says which variable has it, and the value."""
        for variable, value in BAD.items():
            with self.subTest(variable), self.assertRaises(SettingsError) as raised:
                Settings.from_environment({variable: value})
            self.assertIn(f"{variable}={value!r}", str(raised.exception))

    def test_an_empty_value_counts_as_not_set(self) -> None:
        """CI files that pass an unset variable on do not break anything."""
        self.assertEqual(Settings(), Settings.from_environment(dict.fromkeys(BAD, "")))


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


HOOKS = (ROOT / "src/orchestrator/services/README.md").read_text(encoding="utf-8")


def names_told(text: str) -> set[str]:
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
        package = metadata.metadata("unittest-orchestrator")
        [source] = [url for url in package.get_all("Project-URL") or () if "Source" in url]
        home = source.removeprefix("Source, ")
        self.assertIn(f"]({home}/blob/main/src/orchestrator/", package["Description"])
        self.assertEqual([], re.findall(r"\]\(([^):]+)\)", package["Description"]))

    def test_every_command_and_variable_has_a_row(self) -> None:
        """The tables are complete."""
        rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
        variables = [f"ORCHESTRATOR_{it.name.upper()}" for it in dataclasses.fields(Settings)]
        wanted = (*cli.COMMANDS, *variables)
        self.assertEqual([], [name for name in wanted if f"`{name}`" not in rows])

    def test_every_option_of_every_service_is_named(self) -> None:
        """Common options have rows; a service's own stand in its row."""
        common = options(Service)
        for name in common:
            self.assertIn(f"| `{name}` |", README)
        for service in (Postgres, Redis, Kafka, Container):
            self.assertEqual(set(), options(service) - common - names_told(row(service)), service)

    def test_every_public_name_of_a_service_is_named(self) -> None:
        """Completion after ``self.db.`` shows what README has, the hooks, and nothing else."""
        rows = "".join(re.findall(r"^\| (`[a-z_]+`) \|", README, re.MULTILINE))
        [running] = re.findall(r"and, while it runs, (.*?)Ports stay", README, re.DOTALL)
        hooks = "".join(re.findall(r"^\| (`[a-z_]+`.*?) \|", HOOKS, re.MULTILINE))
        [tools] = re.findall(r"^They work with (.*?)\n\n", HOOKS, re.DOTALL | re.MULTILINE)
        common = names_told(rows) - {*cli.COMMANDS} | names_told(running) | names_told(hooks)
        common |= {"running", "state", "copy_with"} & names_told(tools)
        for service in (Service, Container, Postgres, Redis, Kafka, Redpanda):
            own = names_told(row(service)) if service is not Service else set()
            own |= names_told(row(Kafka)) if service is Redpanda else set()
            names = {name for name in dir(service) if not name.startswith("_")} | options(service)
            self.assertEqual(sorted(common | own), sorted(names), service.__name__)

    def test_version(self) -> None:
        """It is the installed distribution's, for programs and on the command line."""
        expected = metadata.version("unittest-orchestrator")
        self.assertEqual(expected, orchestrator.__version__)
        self.assertEqual((0, f"orchestrator {expected}\n", ""), run_command("--version"))
