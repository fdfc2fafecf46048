"""Compose files: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator import Build, Compose, Container
from orchestrator.errors import DeclarationError
from orchestrator.probes import Exec
from orchestrator.services.compose import services_of

REFUSED = {
    "privileged": "{image: a, privileged: true}",
    "network_mode": "{image: a, network_mode: host}",
    "extends": "{image: a, extends: {service: b}}",
    "secrets": "{image: a, secrets: [s]}",
    "pid": "{image: a, pid: host}",
    "devices": "{image: a, devices: [/dev/kvm]}",
    "condition": "{image: a, depends_on: {b: {condition: service_completed_successfully}}}",
    "port '8000-8010:8000-8010'": "{image: a, ports: ['8000-8010:8000-8010']}",
    "replicas": "{image: a, deploy: {replicas: 3}}",
    "deploy.placement": "{image: a, deploy: {placement: {}}}",
    "networks": "{image: a, networks: {back: {aliases: [x]}}}",
    "build.secrets": "{build: {context: ., secrets: [s]}}",
    "healthcheck.test": "{image: a, healthcheck: {test: [RUN, a]}}",
    "does not exist": "{image: a, volumes: ['./missing:/data']}",
    "socket": "{image: a, volumes: ['/var/run/docker.sock:/var/run/docker.sock']}",
    "allow=['root']": "{image: a, volumes: [{type: bind, source: /, target: /host}]}",
    "needs either an image": "{command: a}",
    "memory='lots'": "{image: a, mem_limit: lots}",
    "'cpus' is 'many'": "{image: a, cpus: many}",
    "'command' cannot be split": '{image: a, command: "sh -c \'open"}',
    "not a mapping": "[image, a]",
    "'environment'": "{image: a, environment: 3}",
    "no variable": "{image: a, command: 'cost $5'}",
    "is not set: please": "{image: a, command: '${MISSING:?please}'}",
}


class ComposeFileTest(unittest.TestCase):
    """What a stack declares."""

    def setUp(self) -> None:
        """Work in a folder for Compose files."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.enterContext(contextlib.chdir(self.folder))

    def read(self, text: str, **options: Any) -> Compose:
        """The services of a file with this text."""
        (self.folder / "compose.yaml").write_text(text)
        return Compose(self.folder, **options)

    def service(self, text: str) -> Container:
        """The only service of a file."""
        return services_of(self.read(f"services: {{web: {text}, b: {{image: b, profiles: [x]}}}}"))[
            "web"
        ]

    def test_what_is_not_supported_is_refused_by_name(self) -> None:
        """The message has file, service, and what it was."""
        for part, text in REFUSED.items():
            with self.subTest(part), self.assertRaises(DeclarationError) as raised:
                self.service(text)
            for expected in (part, "compose.yaml", "'web'"):
                self.assertIn(expected, str(raised.exception))

    def test_commands_are_split_as_a_shell_does(self) -> None:
        """Text and list mean the same."""
        for text in ("{image: a, command: \"sh -c 'a b'\"}", "{image: a, command: [sh, -c, a b]}"):
            self.assertEqual(["sh", "-c", "a b"], self.service(text).command)

    def test_environment_is_a_mapping_or_a_list(self) -> None:
        """Numbers and booleans are text in the end; a name alone is taken from here."""
        expected = {"A": "1", "B": "true", "C": "no", "HERE": "yes"}
        with mock.patch.dict(os.environ, {"HERE": "yes"}):
            for text in (
                "{image: a, environment: {A: 1, B: true, C: no, HERE: , GONE: }}",
                "{image: a, environment: [A=1, B=true, C=no, HERE, GONE]}",
            ):
                self.assertEqual(expected, dict(self.service(text).env))

    def test_only_the_containers_side_of_a_port_counts(self) -> None:
        """Numbers too, which YAML 1.1 would count by sixties."""
        ports = "[22:22, 80, '127.0.0.1:8080:81/tcp', '53:53/udp', {target: 90, published: 1}]"
        found = self.service(f"{{image: a, ports: {ports}}}").container_ports()
        self.assertEqual(["22/tcp", "80/tcp", "81/tcp", "53/udp", "90/tcp"], found)

    def test_a_healthcheck_is_the_probe(self) -> None:
        """In all its spellings; none where it is disabled."""
        for test, probe in {
            "redis-cli ping": Exec(["/bin/sh", "-c", "redis-cli ping"]),
            "[CMD-SHELL, redis-cli ping]": Exec(["/bin/sh", "-c", "redis-cli ping"]),
            "[CMD, redis-cli, ping]": Exec(["redis-cli", "ping"]),
            "[NONE]": None,
        }.items():
            with self.subTest(test):
                text = f"{{image: a, healthcheck: {{test: {test}}}}}"
                self.assertEqual(probe, self.service(text).probe)

    def test_limits_are_read_from_either_place(self) -> None:
        """The old keys, and those of deploy."""
        for text in (
            "{image: a, mem_limit: 64m, cpus: 0.5, pids_limit: 9}",
            "{image: a, deploy: {resources: {limits: {memory: 64m, cpus: '0.5', pids: 9}}}}",
        ):
            found = self.service(text)
            self.assertEqual((64 << 20, 0.5, 9), (found.memory, found.cpus, found.pids))

    def test_capabilities_are_added_and_dropped(self) -> None:
        """Asked for by name in the file."""
        found = self.service("{image: a, cap_drop: [ALL], cap_add: [NET_ADMIN]}")
        self.assertEqual(["NET_ADMIN"], found.server_capabilities())

    def test_a_build_is_a_folder_or_more(self) -> None:
        """Relative to the file."""
        self.assertEqual(Build(folder=self.folder / "web"), self.service("{build: ./web}").build)
        more = self.service(
            "{image: tag, build: {context: a, dockerfile: B, args: [C=1], target: d}}"
        )
        expected = Build(folder=self.folder / "a", dockerfile="B", args={"C": "1"}, target="d")
        self.assertEqual(expected, more.build)

    def test_a_bound_folder_is_copied_file_by_file(self) -> None:
        """A named volume is not: it begins empty."""
        (self.folder / "sql").mkdir()
        (self.folder / "sql" / "a.sql").write_text("select 1")
        found = self.service("{image: a, volumes: ['./sql:/init/', 'data:/data', /cache]}")
        self.assertEqual({"/init/a.sql": self.folder / "sql" / "a.sql"}, dict(found.files))

    def test_only_the_project_is_copied(self) -> None:
        """What is bound from elsewhere, or is a link to there, has to be named."""
        with tempfile.TemporaryDirectory() as name:
            other = Path(name).resolve()
            (other / "key").write_text("secret")
            (self.folder / "data").mkdir()
            (self.folder / "data" / "link").symlink_to(other / "key")
            for source, path in ((f"{other}/key", "/in"), ("./data", "/in/link")):
                text = f"services: {{web: {{image: a, volumes: ['{source}:/in']}}}}"
                words = rf"volume /in refuses '.*'.*allow=\['{other}/key'\]"
                with self.subTest(source), self.assertRaisesRegex(DeclarationError, words):
                    _ = services_of(self.read(text))
                found = services_of(self.read(text, allow=[other]))["web"].files
                self.assertEqual({path: other / "key"}, dict(found))

    def test_a_volume_that_two_services_share_is_refused(self) -> None:
        """Each would begin with an empty one of its own; one of the two alone may have it."""
        text = (
            "services: {a: {image: i, volumes: ['data:/one']}, "
            "b: {image: i, volumes: [{type: volume, source: data, target: /two}]}}"
        )
        with self.assertRaisesRegex(DeclarationError, "'a' and 'b' share the volume 'data'"):
            _ = services_of(self.read(text))
        self.assertEqual(["b"], list(services_of(self.read(text, services=["b"]))))

    def test_variables_are_filled_in(self) -> None:
        """From this process, else from .env, else the default; $$ is a dollar."""
        (self.folder / ".env").write_text("FILE=from file # remark\nexport BOTH='file'\n")
        with mock.patch.dict(os.environ, {"BOTH": "process", "EMPTY": ""}):
            found = self.service(
                "{image: a, command: [$FILE, '${BOTH}', '${NO-a}', '${EMPTY:-b}', "
                "'${EMPTY-c}', '${BOTH:+d}', $$x, '${NO}']}"
            )
        expected = ["from file", "process", "a", "b", "", "d", "$x", ""]
        self.assertEqual(expected, found.command)

    def test_variables_of_a_service_come_from_its_files(self) -> None:
        """Quotes are taken off; lines without a value are none, and `environment` counts more."""
        (self.folder / "a.env").write_text("# a\n\nA='x # y'\nB=one # two\nC=\nD\nE=file\n")
        found = self.service("{image: a, env_file: [a.env], environment: {E: here}}")
        self.assertEqual({"A": "x # y", "B": "one", "C": "", "E": "here"}, dict(found.env))

    def test_a_line_that_sets_no_variable_is_named(self) -> None:
        """With file and number; what may be a secret stays out of the message."""
        (self.folder / "a.env").write_text("A=1\n\nKEY='sesame\n")
        with self.assertRaisesRegex(DeclarationError, "a.env, line 3: .*not 'KEY=…'") as caught:
            self.service("{image: a, env_file: a.env}")
        self.assertNotIn("sesame", str(caught.exception))

    def test_dependencies_come_along(self) -> None:
        """Those of the wanted ones, and no others; naming one takes it out of its profile."""
        text = (
            "services: {a: {image: i, depends_on: [b], profiles: [x]}, b: {image: i}, "
            "c: {image: i}}"
        )
        self.assertEqual(["b", "c"], list(services_of(self.read(text))))
        stack = self.read(text, services=["a"])
        self.assertEqual(["a", "b"], list(services_of(stack)))
        with self.assertRaisesRegex(DeclarationError, "runs no service 'c' here; it runs a, b"):
            _ = stack.__get__(None)["c"]
        with self.assertRaisesRegex(DeclarationError, "no service 'd'; it has a, b, c"):
            _ = services_of(self.read(text, services=["d"]))

    def test_a_file_that_is_none_is_told(self) -> None:
        """Not YAML, not a mapping, no services, or parts that are not supported."""
        for text, part in {
            "a: [": "not YAML",
            "- a": "no services",
            "services: 3": "no services",
            "include: [a]\nservices: {}": "'include' is not supported",
            "!!python/object:os.system {}": "not YAML",
        }.items():
            with self.subTest(text), self.assertRaisesRegex(DeclarationError, part):
                _ = services_of(self.read(text))

    def test_a_folder_without_a_file_is_told(self) -> None:
        """With the names that were looked for."""
        with self.assertRaisesRegex(DeclarationError, "has no compose.yaml, compose.yml"):
            _ = services_of(Compose(self.folder))

    def test_a_bad_argument_is_told_at_once(self) -> None:
        """Before any file is read."""
        wrong: list[dict[str, Any]] = [
            {"file": ""},
            {"file": "a", "services": "web"},
            {"file": "a", "services": []},
            {"file": "a", "scope": "forever"},
            {"file": "a", "startup_timeout": 0},
        ]
        for options in wrong:
            with self.subTest(str(options)), self.assertRaisesRegex(DeclarationError, "Compose"):
                Compose(**options)
