"""Compose files: what is read, and what is refused."""

import contextlib
import os
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator import Build, Compose, Container
from orchestrator.errors import DeclarationError
from orchestrator.services.compose import services_of

# What is in the message, and the service that it is about; it stands on line 2 of its file.
REFUSED = {
    "'privileged' is not supported; name": "{image: a, privileged: true}",
    "'imag' is not supported; did you mean 'image'?": "{imag: a}",
    "'depends_on.b.condition' is 'service_ready'": "{image: a, depends_on: {b: {condition: "
    "service_ready}}}",
    "'depends_on[0]' names the service 'c'": "{image: a, depends_on: [c]}",
    "'ports[0]' is '80:x'": "{image: a, ports: ['80:x']}",
    "ranges differ": "{image: a, ports: ['8000-8010:8000-8011']}",
    "'deploy.replicas' other than 1": "{image: a, deploy: {replicas: 3}}",
    "'networks.back' names 'back', which 'networks' does not": "{image: a, networks: {back: }}",
    "'build.context' is 'https:": "{build: {context: 'https://example.com/a.git'}}",
    "'build' is 'https:": "{build: 'https://example.com/a.git'}",
    "'volumes[0]' is './xxx": "{image: a, volumes: ['./%s:/x']}" % ("x" * 300),
    "'hostname' is 'a b'": "{image: a, hostname: a b}",
    "in a volume that is read-only": "{image: a, volumes: ['v:/x:ro', './a.env:/x/a']}",
    "'mem_limit' and 'deploy.resources.limits.memory' are": "{image: a, mem_limit: 64m, "
    "deploy: {resources: {limits: {memory: 65m}}}}",
    "'build.secrets'": "{build: {context: ., secrets: [s]}}",
    "'healthcheck.test' is ['RUN', 'a']": "{image: a, healthcheck: {test: [RUN, a]}}",
    "'volumes[0].source' is ": "{image: a, volumes: [{type: bind, "
    "source: ./missing, target: /x, bind: {create_host_path: false}}]}",
    "socket": "{image: a, volumes: ['/var/run/docker.sock:/var/run/docker.sock']}",
    "allow=['root']": "{image: a, volumes: [{type: bind, source: /, target: /host}]}",
    "'~nobody-here/x', which leads nowhere": "{image: a, volumes: ['~nobody-here/x:/x']}",
    "'volumes[0]' has no 'target'": "{image: a, volumes: [{type: bind, source: ./a}]}",
    "the target '/x/../y'": "{image: a, volumes: ['./a:/x/../y']}",
    "'/proc/x', which belongs to the kernel": "{image: a, volumes: ['./a:/proc/x']}",
    "expected SOURCE:TARGET": "{image: a, volumes: ['a:/b:ro:c']}",
    "names 'sql/init', which 'volumes' does not declare; a path begins with ./": "{image: a, "
    "volumes: ['sql/init:/x']}",
    "where line 2 has put something": "{image: a, volumes: [/x, './a:/x']}",
    "'secrets[0]' names 's', which 'secrets' does not": "{image: a, secrets: [s]}",
    "needs either an image": "{command: a}",
    "'mem_limit' is 'lots'": "{image: a, mem_limit: lots}",
    "'cap_add' has ALL": "{image: a, cap_add: [ALL]}",
    "'security_opt[0]' is 'seccomp:unconfined'": "{image: a, security_opt: ['seccomp:unconfined']}",
    "'command' cannot be split": '{image: a, command: "sh -c \'open"}',
    "has a $ that is no variable": "{image: a, command: 'cost $5'}",
    "is not set: please": "{image: a, command: '${MISSING:?${NO:-please}}'}",
    "'environment.A' is there twice, also on line 2": "{image: a, environment: {A: 1, A: 2}}",
    "'environment' is an alias of what it stands in": "&a {image: a, environment: *a}",
    "cannot run: ": "{image: 'a b'}",
}
BOMB = "\n".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))


class ComposeFileTest(unittest.TestCase):
    """What a stack declares."""

    def setUp(self) -> None:
        """Work in a folder for Compose files."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.enterContext(contextlib.chdir(self.folder))

    def read(self, text: str, **options: Any) -> dict[str, Container]:
        """The services of a file with this text."""
        (self.folder / "compose.yaml").write_text(text)
        return {**services_of(Compose(self.folder, **options))}

    def service(self, text: str, more: str = "", **options: Any) -> Container:
        """One service of a file, and what is declared beside it."""
        file = f"services:\n  web: {text}\n  b: {{image: b, profiles: [x]}}\n{more}"
        return self.read(file, **options)["web"]

    def test_what_is_not_supported_is_refused_by_name(self) -> None:
        """The message has file, line, service, key, and what is wrong with it."""
        (self.folder / "a.env").touch()
        for part, text in REFUSED.items():
            with self.subTest(part), self.assertRaises(DeclarationError) as raised:
                self.service(text, "volumes: {v: }")
            for expected in (part, "compose.yaml:2: service 'web':"):
                self.assertIn(expected, str(raised.exception))

    def test_what_is_declared_beside_the_services_is_checked_as_well(self) -> None:
        """It would have to be there before, or be somebody else's."""
        for part, text in {
            ":4: 'volumes.v.external' is not supported": "volumes: {v: {external: true}}",
            ":4: 'volumes.v.driver' other than local": "volumes: {v: {driver: nfs}}",
            ":4: 'volumes.v.driver_opts' is not": "volumes: {v: {driver_opts: {type: tmpfs}}}",
            ":4: 'include' is not supported": "include: [a]",
        }.items():
            with self.subTest(part), self.assertRaisesRegex(DeclarationError, part):
                self.service("{image: a, volumes: ['v:/x']}", text)
        for part, text in {
            "needs one of file, environment$": "{}",
            "names the variable NOT_HERE, which is not set": "{environment: NOT_HERE}",
            "secrets.s.file' refuses '/etc/passwd'": "{file: /etc/passwd}",
            "secrets.s.file' is .*/none, which is no file": "{file: none}",
        }.items():
            with self.subTest(part), self.assertRaisesRegex(DeclarationError, part):
                self.service("{image: a, secrets: [s]}", f"secrets: {{s: {text}}}")

    def test_a_bomb_is_an_error_soon(self) -> None:
        """Whether of aliases, of size or of variables."""
        (self.folder / ".env").write_text("A0=aaaaaaaa\n")
        began = time.process_time()
        for text, part in (
            (f"x-0: &a0 [x]\n{BOMB}\nservices: {{}}", "aliases make more than"),
            ("#" * 300_000, "larger than 256 KiB"),
            (f"services: {{a: {{image: '{'${A:-' * 9000}'}}}}", "no closing brace"),
        ):
            with self.subTest(part), self.assertRaisesRegex(DeclarationError, part):
                self.read(text)
        lines = "".join(f"A{n}=$A{n - 1}$A{n - 1}\n" for n in range(1, 60))
        (self.folder / ".env").write_text(f"A0=aaaaaaaa\n{lines}")
        with self.assertRaisesRegex(DeclarationError, r"\.env:\d+: A\d+: .* longer than"):
            self.read("services: {}")
        self.assertLess(time.process_time() - began, 5)

    def test_commands_are_split_as_a_shell_does(self) -> None:
        """Text and list mean the same; an empty entry point is none."""
        for text in ("{image: a, command: \"sh -c 'a b'\"}", "{image: a, command: [sh, -c, a b]}"):
            self.assertEqual(["sh", "-c", "a b"], self.service(text).command)
        self.assertEqual([""], self.service("{image: a, entrypoint: []}").entrypoint)

    def test_environment_is_a_mapping_or_a_list(self) -> None:
        """Scalars as docker compose writes them; a name alone is taken from here, or left out."""
        (self.folder / ".env").write_text("BELOW=dot\n")
        (self.folder / "a.env").write_text("GONE=file\n")
        expected = {"A": "1", "B": "true", "C": "no", "HERE": "yes", "BELOW": "dot"}
        with mock.patch.dict(os.environ, {"HERE": "yes"}):
            for text in (
                "environment: {A: 1, B: true, C: no, HERE: , BELOW: , GONE: }",
                "environment: [A=1, B=true, C=no, HERE, BELOW, GONE]",
            ):
                found = self.service(f"{{image: a, env_file: a.env, {text}}}").env
                self.assertEqual(expected, dict(found))
        found = self.service(
            "{image: a, environment: {A: 1.10, B: 010, C: 1_0, D: 1.0, E: ''}}"
        ).env
        self.assertEqual({"A": "1.1", "B": "8", "C": "10", "D": "1", "E": ""}, dict(found))

    def test_only_the_containers_side_of_a_port_counts(self) -> None:
        """Numbers too, which YAML 1.1 would count by sixties; ranges; each port once."""
        ports = (
            "[22:22, 80, '127.0.0.1:8080:81/tcp', '[::1]:1:80', '53:53/udp', "
            "'9000-9001:70-71', {target: 90, published: 1}]"
        )
        expected = ["22/tcp", "80/tcp", "81/tcp", "53/udp", "70/tcp", "71/tcp", "90/tcp"]
        self.assertEqual(expected, self.service(f"{{image: a, ports: {ports}}}").container_ports())

    def test_a_healthcheck_is_the_probe(self) -> None:
        """In all its spellings; the image's where there is no test; none where it is disabled."""
        shell = ["/bin/sh", "-c", "redis-cli ping"]
        for text, argv in {
            "{test: redis-cli ping}": shell,
            "{test: [CMD-SHELL, redis-cli ping], retries: 3}": shell,
            "{test: [CMD, redis-cli, ping], timeout: 1m30s}": ["redis-cli", "ping"],
            "{interval: 5s}": None,
        }.items():
            with self.subTest(text):
                probe: Any = self.service(f"{{image: a, healthcheck: {text}}}").probe
                self.assertEqual(argv, probe.argv)
                self.assertEqual(90 if "1m30s" in text else 30, probe.timeout)
        for text in ("{test: [NONE]}", "{disable: true, test: a}"):
            self.assertIsNone(self.service(f"{{image: a, healthcheck: {text}}}").probe)

    def test_a_build_is_a_folder_or_more(self) -> None:
        """Relative to the file; another service may use its image by name."""
        self.assertEqual(Build(folder=self.folder / "web"), self.service("{build: ./web}").build)
        build = "{image: tag, build: {context: a, dockerfile: B, args: [C=1, NOT_HERE], target: d}}"
        found = self.read(f"services: {{a: {build}, b: {{image: tag}}}}")
        expected = Build(folder=self.folder / "a", dockerfile="B", args={"C": "1"}, target="d")
        self.assertEqual([expected, expected], [found["a"].build, found["b"].build])

    def test_only_the_project_is_copied(self) -> None:
        """What is bound from elsewhere has to be named; a folder that is not there begins empty."""
        with tempfile.TemporaryDirectory() as name:
            other = Path(name).resolve()
            (other / "key").write_text("secret")
            text = f"{{image: a, volumes: ['{other}/key:/in']}}"
            words = rf"'volumes\[0\]' refuses '.*'.*allow=\['{other}/key'\]"
            with self.assertRaisesRegex(DeclarationError, words):
                self.service(text)
            [copy] = self.service(text, allow=[other]).server_extras().copies
            self.assertEqual(("/in", other / "key"), (copy.path, copy.source))
        [volume] = self.service("{image: a, volumes: ['./new:/in']}").server_extras().volumes
        self.assertEqual(("/in", True, ()), (volume.path, volume.no_copy, volume.content))

    def test_variables_are_filled_in(self) -> None:
        """From this process, else from .env, else the default, which may have some; $$ is one."""
        (self.folder / ".env").write_text("FILE=from file # remark\nexport BOTH='file'\n")
        with mock.patch.dict(os.environ, {"BOTH": "process", "EMPTY": ""}):
            found = self.service(
                "{image: a, command: [$FILE, '${BOTH}', '${NO-a}', '${EMPTY:-b}', "
                "'${EMPTY-c}', '${BOTH:+d}', $$x, '${NO}', '${NO:-${EMPTY:-${FILE}}}', "
                "'${BOTH:-${NO:?never}}', '${COMPOSE_PROJECT_NAME}']}",
                "name: shop",
            )
        expected = ["from file", "process", "a", "b", "", "d", "$x", "", "from file", "process"]
        self.assertEqual([*expected, "shop"], found.command)

    def test_variables_of_a_service_come_from_its_files(self) -> None:
        """By the rules of the specification; the last file counts, and `environment` more."""
        (self.folder / "a.env").write_text(
            "# a\n\nA='x # $y'\nB=one # two\nC=\nD=a# b\nE=file\nHERE\nGONE\nF: yaml\n"
            'G="$B\\t\\"q\\" ${Z:-z}" # r\nH=\'it\\\'s\'\nI=a\\tb\nJ="two\nlines"\nK= # none\n'
        )
        (self.folder / "b.env").write_text("D=$5 '\n")
        files = "[a.env, {path: b.env, format: raw}, {path: none.env, required: false}]"
        with mock.patch.dict(os.environ, {"HERE": "yes"}):
            found = self.service(f"{{image: a, env_file: {files}, environment: {{E: here}}}}")
        expected = {
            "A": "x # $y",
            "B": "one",
            "C": "",
            "D": "$5 '",
            "E": "here",
            "HERE": "yes",
            "F": "yaml",
            "G": 'one\t"q" z',
            "H": "it's",
            "I": "a\\tb",
            "J": "two\nlines",
            "K": "",
        }
        self.assertEqual(expected, dict(found.env))

    def test_a_line_that_sets_no_variable_is_named(self) -> None:
        """With file and number; what may be a secret stays out of the message."""
        for line in ("KEY='sesame", "KEY='sesame' open", "1KEY=sesame", "KEY=sesame$5"):
            (self.folder / "a.env").write_text(f"A=1\n\n{line}\n")
            with self.assertRaisesRegex(DeclarationError, "a.env:3: .*KEY") as caught:
                self.service("{image: a, env_file: a.env}")
            self.assertNotIn("sesame", str(caught.exception))

    def test_dependencies_come_along(self) -> None:
        """Those of the wanted ones, and no others; naming one takes it out of its profile."""
        text = (
            "services: {a: {image: i, depends_on: [b], profiles: [x]}, b: {image: i}, "
            "c: {image: i, links: ['b:other'], depends_on: {a: {required: false}}}}"
        )
        self.assertEqual(["b", "c"], list(self.read(text)))
        found = self.read(text, services=["a"])
        self.assertEqual(["a", "b"], list(found))
        self.assertEqual(["b"], found["a"].depends_on)
        self.assertEqual(["other"], self.read(text)["b"].server_extras().aliases)
        stack = Compose(self.folder, services=["a"])
        with self.assertRaisesRegex(DeclarationError, "runs no service 'c' here; it runs a, b"):
            _ = stack.__get__(None)["c"]
        with self.assertRaisesRegex(DeclarationError, "has no service 'd'; it has a, b, c"):
            self.read(text, services=["d"])

    def test_a_file_that_is_none_is_told(self) -> None:
        """Not YAML, not a mapping, no services."""
        for text, part in {
            "\n a: [": "compose.yaml:2: is not YAML",
            "- a": ":1: is a list; expected a mapping",
            "services: 3": ":1: 'services' is 3; expected a mapping",
            "name: a": ":1: has no 'services'",
            "": "is empty",
            "services: {}\n---\nservices: {}": "another document",
        }.items():
            with self.subTest(text), self.assertRaisesRegex(DeclarationError, part):
                self.read(text)
        (self.folder / "compose.yaml").unlink()
        with self.assertRaisesRegex(DeclarationError, "has no compose.yaml, compose.yml"):
            services_of(Compose(self.folder))
