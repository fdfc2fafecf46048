"""Declarations: what a class body may say, and what of this machine a container may see."""

import contextlib
import os
import tempfile
import unittest
from pathlib import Path
from typing import Any, assert_type
from unittest import mock

import django.test

from orchestrator import Container, Kafka, Postgres, Redis, Redpanda, Service, ServicesMixin
from orchestrator.errors import DeclarationError, ServiceNotRunningError
from orchestrator.probes import All, Exec, Http, Tcp

# Values that cannot work, by service and option; a Container has an image besides.
BAD: dict[type[Service], dict[str, list[Any]]] = {
    Service: {
        "image": ["", "Postgres 15"],
        "env": [{"A": 1}, {"A=B": "1"}, {"A": "a\0b"}, {"A": "\ud800"}],
        "command": ["postgres -c x", ["\0"]],
        "files": [{"relative": b""}, {"/a": 1}, {"/etc/": b"x"}, {"/a": "\0"}],
        "memory": ["lots", 1024, "9" * 400],
        "cpus": [0],
        "pids": [0, True],
        "shm_size": ["some", 0],
        "tmpfs": [["/tmp"], {"tmp": "1m"}, {"/tmp": "lots"}],
        "log_to": [1],
        "startup_timeout": [-1],
        "scope": ["forever"],
        "depends_on": ["db", [1]],
    },
    Postgres: {
        "isolation": ["rollback"],
        "settings": [["fsync"], {"work mem": "1MB"}, {"work_mem": None}, {"Port": 1234}],
        "init": ["schema.sql", [b"schema.sql"], ["schema.txt"]],
        "migrate": ["alembic.ini"],
        "databases": ["reports", ["test"], ["a", "a"], [""], {"reports": "alembic.ini"}],
        "roles": ["app", [1], ["x" * 64], None],
        "extensions": ["pg_trgm"],
        "durable": ["no"],
        "database": ["", "x" * 64],
        "username": ["a\0b", "\ud800"],
        "password": ["", "hush\nhush"],
    },
    Redis: {
        "maxmemory": ["some", -1, True, "1.5mb", "2 mb"],
        "maxmemory_policy": ["allkeys"],
        "isolation": ["schema"],
        "settings": [
            ["save"],
            {"save ''": ""},
            {"save": None},
            {"save": "'unfinished"},
            {"requirepass": "x"},  # an option's own
            {"rename-command": "FLUSHALL ''"},
        ],
        "users": [["app"], {"the app": "+@all"}, {"default": "+@all"}, {"app": "~* >hush"}],
        "tls": ["yes"],
        "password": ["", "hush\0hush", "hush\ud800"],
    },
    Kafka: {
        "security": ["none"],
        "settings": [{"num.partitions": 3}, {"Num.Partitions": "3"}, {"listeners": "X://:1"}],
        "mechanism": ["PLAIN"],
    },
    Redpanda: {"settings": ["log_segment_ms", {"log.segment.ms": 1}, {"a": [1]}]},
    Container: {
        "build": ["", 3, "b", "\0"],
        "entrypoint": ["sleep 3"],
        "user": ["two words", True, 3.5, -1],
        "ports": [80, [80, "80/tcp"], [0], ["8080:80"]],
        "probe": ["tcp", Tcp, Tcp(), All(Exec(["true"]), Http("/", port=81))],
        "capabilities": ["NET_ADMIN", ["net admin"]],
        "mounts": [
            ["/data"],
            {"data": "/srv/data"},
            {"/data": ""},
            {"/data": "/srv/a:rw"},
            {"/a": "\ud800"},
        ],
    },
}
# What cannot be had together; the last option is named.
TOGETHER: list[tuple[type[Service], dict[str, Any]]] = [
    (Container, {}),
    (Postgres, {"scope": "run", "log_to": "shop"}),
    (Postgres, {"scope": "run", "username": "orchestrator"}),
    (Redis, {"scope": "run", "users": {"app": "~*"}}),
    (Redis, {"settings": {"rename-command": "eval EVAL2"}, "isolation": "prefix"}),
    (Kafka, {"security": "ssl", "mechanism": "SCRAM-SHA-256"}),
]


class DeclarationTest(unittest.TestCase):
    """A wrong declaration is told at once; a right one touches nothing."""

    def test_a_bad_value_is_an_error_that_names_service_and_option(self) -> None:
        """When the class is made; no secret is shown, not even a wrong one."""
        Redpanda(settings={"log_segment_ms": 60_000, "superusers": ["ada"], "enable_sasl": False})
        tried = [
            (kind, {**({"image": "a"} if kind is Container else {}), option: value})
            for service, bad in BAD.items()
            for option, values in bad.items()
            for value in values
            for kind in ([Postgres, Container] if service is Service else [service])
        ]
        for kind, options in (*tried, *TOGETHER):
            with self.subTest(f"{kind.__name__}({options})"):
                with self.assertRaises(DeclarationError) as raised:
                    kind(**options)
                *_, option = options or ["image"]
                self.assertIn(kind.__name__, str(raised.exception))
                self.assertIn(option, str(raised.exception))
                self.assertNotIn("hush", str(raised.exception))

    def test_options_are_given_by_name(self) -> None:
        """A typing mistake is told with what was probably meant; later, nothing can be changed."""
        with self.assertRaisesRegex(DeclarationError, "no option 'isolaton'; did you mean 'isola"):
            Postgres(isolaton="schema")  # type: ignore[call-arg]
        with self.assertRaisesRegex(DeclarationError, "by name only"):
            Postgres("schema")  # type: ignore[call-arg]
        with self.assertRaises(AttributeError):
            Postgres().database = "other"  # type: ignore[misc]

    def test_what_a_class_cannot_have_is_refused(self) -> None:
        """Names that are no host names, or unittest's own; dependencies that cannot be met."""
        same, short = Redis(), Redis(scope="test")
        bodies: dict[str, dict[str, Any]] = {
            "'db' and 'DB' have one alias": {"db": Postgres(), "DB": Redis()},
            "same declaration": {"first": same, "second": same},
            "'größe' cannot name a service": {"größe": Redis()},
            "'localhost' cannot name a service": {"localhost": Redis()},
            "'run' cannot name a service: unittest.case.TestCase has": {"run": Redis()},
            "Odd.db is the class Postgres itself; write db = Postgres\\(\\)": {"db": Postgres},
            "Odd.db is the class Own itself": {
                "db": type("Own", (Redis,), {"__qualname__": "Odd.Own"})
            },
            "depends on 'db', which is not a service": {"cache": Redis(depends_on=["db"])},
            "does not live as long": {"one": short, "two": Redis(depends_on=[short])},
            "in a circle": {"one": Redis(depends_on=["two"]), "two": Redis(depends_on=["one"])},
        }
        for words, body in bodies.items():
            with self.subTest(words), self.assertRaisesRegex(DeclarationError, words):
                type("Odd", (ServicesMixin, unittest.TestCase), body)

    def test_a_name_that_a_base_class_sets_is_refused(self) -> None:
        """When the class is made if it is seen there, else when it is set; by whom is told."""

        class Foreign(unittest.TestCase):
            def setUp(self) -> None:
                vars(type(self))  # not every use of the name is
                setattr(self, "late", 1)  # noqa: B010 - which nobody sees before
                self.other.cache = 1  # type: ignore[attr-defined]

        words = "'fixtures' cannot.*TransactionTestCase has that name itself"
        with self.assertRaisesRegex(DeclarationError, words):
            type("Odd", (ServicesMixin, django.test.TestCase), {"fixtures": Redis()})

        class Seen(ServicesMixin, Foreign):
            cache = Redis()
            late = Redis()

        with self.assertRaisesRegex(
            DeclarationError, r"Seen\.late is a declared Redis, and .*setUp"
        ):
            Seen("setUp").setUp()

    def test_the_mixin_must_come_before_test_case(self) -> None:
        """The order of the bases that would silently do nothing is refused."""
        with self.assertRaisesRegex(DeclarationError, "put ServicesMixin before TestCase"):

            class Late(unittest.TestCase, ServicesMixin):  # type: ignore[misc]
                db = Redis()

    def test_a_service_that_does_not_run_says_what_is_missing(self) -> None:
        """A class without ServicesMixin starts nothing; nor does a declaration in no class."""

        class Plain(unittest.TestCase):
            cache = Redis()

        with self.assertRaisesRegex(ServiceNotRunningError, r"Plain\.cache .* ServicesMixin"):
            _ = Plain.cache.port
        words = "^This Postgres is not running. `with Postgres"
        with self.assertRaisesRegex(ServiceNotRunningError, words):
            _ = Postgres().port

    def test_the_repr_has_what_was_asked_for(self) -> None:
        """Thirty defaults would bury it in every error that shows a declaration."""
        declared = Postgres(database="shop", cpus=0.5, password="hush-hush")
        self.assertEqual("Postgres(cpus=0.5, database='shop')", repr(declared))

    def test_a_type_checker_sees_the_service_behind_the_attribute(self) -> None:
        """Of the class and of the test, also for a service of one's own; ci/check reads this."""

        class Own(Service):
            size: int = 1

        class Typed(ServicesMixin, unittest.TestCase):
            own = Own(size=2)

        assert_type(Typed.own, Own)
        assert_type(Typed().own, Own)
        self.assertEqual(2, assert_type(Typed.own.size, int))

    def test_a_subclass_inherits_replaces_and_unsets_services(self) -> None:
        """Declarations follow Python's inheritance."""
        from orchestrator.environment import declared_services

        class Base(ServicesMixin, unittest.TestCase):
            db = Postgres()
            cache = Redis()

        class Changed(Base):
            db = Postgres(isolation="none")
            cache = None  # type: ignore[assignment]

        self.assertEqual({"db": Changed.__dict__["db"]}, declared_services(Changed))

    def test_the_part_of_a_log_that_is_asked_for_is_checked(self) -> None:
        """The daemon would give all of it for a wrong number."""
        with self.assertRaisesRegex(DeclarationError, r"logs\(tail=-1\)"):
            Redis().logs(tail=-1)
        with self.assertRaisesRegex(DeclarationError, r"logs\(since=3\.5\)"):
            Redis().logs(since=3.5)  # type: ignore[arg-type]


class MountsTest(unittest.TestCase):
    """What of this machine a container may see: the project, and what the test names."""

    def setUp(self) -> None:
        """Work in a project of one's own, in a user's home."""
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.project = self.home / "shop"
        (self.project / "tests").mkdir(parents=True)
        (self.project / "images.lock").touch()
        self.enterContext(mock.patch.dict(os.environ, {"HOME": str(self.home)}))
        self.enterContext(contextlib.chdir(self.project / "tests"))

    def refused(self, source: str | Path, word: str) -> None:
        """Check that a mount is refused, and let through when it is named as the error says."""
        with self.assertRaisesRegex(DeclarationError, rf"allow=\[{word!r}\]"):
            Container(image="a", mounts={"/in": source})
        Container(image="a", mounts={"/in": source}, allow=[word])

    def test_the_project_may_be_seen(self) -> None:
        """From its folder downwards, whatever the working directory in it is."""
        for source in (self.project, self.project / "data" / "not yet", "..", "data"):
            box = Container(image="a", mounts={"/in": source})
            expected = {"/in": os.path.realpath(self.project / "tests" / source)}
            self.assertEqual(expected, box.server_mounts())

    def test_the_rest_of_the_machine_may_not(self) -> None:
        """What is outside is named, what is dangerous by a word, however it is written."""
        other = f"{self.project}/../other"
        for source, word in (
            *((path, path) for path in ("/run/docker", "/proc", "/dev/sda", "/etc/shadow")),
            (self.home / "shopping", str(self.home / "shopping")),
            (other, os.path.realpath(other)),
            ("/var/run/docker.sock", "docker-socket"),
            (self.project / "docker.sock", "docker-socket"),
            *((home, "home") for home in (self.home, "/home", "/root")),
            *((root, "root") for root in ("/", "//", "/srv/..", "/proc/self/root")),
        ):
            with self.subTest(source):
                self.refused(source, word)

    def test_links_are_followed(self) -> None:
        """An innocent name gets nothing through, also where it leads elsewhere only later."""
        link = self.project / "data"
        box = Container(image="a", mounts={"/in": link})
        link.symlink_to("/etc")
        with self.assertRaisesRegex(DeclarationError, r"which is '/etc'.*allow=\['/etc'\]"):
            box.server_mounts()
        with self.assertRaisesRegex(DeclarationError, "which is '/etc'"):
            Container(image="a", mounts={"/in": link})

    def test_another_name_does_not_let_it_through(self) -> None:
        """Each is asked for by its own."""
        for source, allow in (
            ("/", ["home", "docker-socket"]),
            ("/run/docker.sock", ["root"]),
            ("/srv/data", ["/srv/dat", "/srv/data/below"]),
        ):
            with self.subTest(source), self.assertRaises(DeclarationError):
                Container(image="a", mounts={"/in": source}, allow=allow)

    def test_what_is_no_project(self) -> None:
        """A home folder, the system's, and those that everybody shares, in spite of a lock file."""
        (self.home / "images.lock").touch()
        for folder in (self.home, "/", "/etc", "/tmp", "/proc/self"):
            with self.subTest(folder), contextlib.chdir(folder):
                inside = Path(folder).resolve() / "x"
                with self.assertRaisesRegex(DeclarationError, "is in no project's folder"):
                    Container(image="a", mounts={"/in": inside})

    def test_what_is_a_project_with_a_mark_only(self) -> None:
        """A folder of installed programs or a hidden one; a checkout of CI's in it is."""
        hidden = self.home / ".ssh"
        hidden.mkdir()
        checkout = Path(self.enterContext(tempfile.TemporaryDirectory(dir="/var/lib")))
        for folder in ("/usr/local", "/usr/lib/ssl", "/var/lib", hidden, checkout):
            with self.subTest(folder), contextlib.chdir(folder):
                inside = Path(folder).resolve() / "x"
                self.refused(inside, str(inside))
        for folder in (hidden, checkout):
            (folder / "pyproject.toml").touch()
            with contextlib.chdir(folder):
                Container(image="a", mounts={"/in": folder / "x"})

    def test_a_project_without_a_lock_file(self) -> None:
        """Its repository counts, else the working directory."""
        (self.project / "images.lock").unlink()
        Container(image="a", mounts={"/in": self.project / "tests"})
        self.refused(self.project, str(self.project))
        (self.project / ".git").mkdir()
        Container(image="a", mounts={"/in": self.project})

    def test_what_allow_may_be(self) -> None:
        """A list of words and absolute paths."""
        for allow in ("home", ["srv"], [1]):
            with self.subTest(allow), self.assertRaisesRegex(DeclarationError, "allow="):
                Container(image="a", allow=allow)  # type: ignore[arg-type]  # the point
