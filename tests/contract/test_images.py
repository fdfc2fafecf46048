"""The images that the lock file names keep the official ones' contracts: ci/images/README.md."""

import gzip
import os
import subprocess
import tempfile
import tomllib
import unittest
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.faults.process import await_that

_INIT = "/docker-entrypoint-initdb.d"
_MEMORY = "--tmpfs=/var/lib/postgresql/data"  # where initdb takes no time
_PASSWORD = 'it\'s "50%" $HOME é\\n'
_USER, _DATABASE = "we ird", 'my "db'
_PSQL = ("psql", "--no-psqlrc", "-tA", "-w", "-U", _USER, "-d", _DATABASE)


def docker(*arguments: str, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """What the docker command prints, which ends well or not."""
    done = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if fails != bool(done.returncode):
        raise AssertionError(done.stdout)
    return done.stdout.strip()


class ImageTest(unittest.TestCase):
    """Starts containers of an image; they and their volumes go at the end of the class."""

    name: ClassVar[str]
    image: ClassVar[str]
    label: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """Find the image."""
        lock = os.environ.get("ORCHESTRATOR_IMAGES_LOCK", Path(__file__).parents[2] / "images.lock")
        entry = tomllib.loads(Path(lock).read_text())["images"][cls.name]
        cls.image = f"{entry['reference'].rsplit(':', 1)[0]}@{entry['digest']}"
        cls.label = f"dev.orchestrator.run={uuid.uuid4()}"
        cls.addClassCleanup(cls._remove_all)

    @classmethod
    def _remove_all(cls) -> None:
        if made := docker("ps", "-aq", "--filter", f"label={cls.label}").split():
            docker("rm", "--force", "--volumes", *made)

    @classmethod
    def start(cls, *options: str, command: tuple[str, ...] = (), files: object = None) -> str:
        """Start a container, with these init files; its id."""
        if isinstance(files, dict):
            folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            options = (*options, f"--volume={folder}:{_INIT}:ro")
        return docker("run", "--detach", f"--label={cls.label}", *options, cls.image, *command)

    def eventually(self, container: str, *argv: str) -> None:
        """Wait until a command succeeds in the container."""

        def succeeds() -> bool:
            done = subprocess.run(["docker", "exec", container, *argv], capture_output=True)  # noqa: PLW1510
            return done.returncode == 0

        await_that(succeeds, lambda: docker("logs", container), pause=0.3)  # an exec takes as long

    def assert_ends(self, container: str, because: str) -> None:
        """Wait until the container has ended, not with 0, and with these words."""
        self.assertNotEqual("0", docker("wait", container))
        self.assertIn(because, docker("logs", container))


class PostgresImageTest(ImageTest):
    """docker.io/library/postgres."""

    name = "postgres"

    def test_all_that_can_be_configured(self) -> None:
        """Any spelling of names, arguments, folder; no port before init files, in order, once."""
        files = {
            "10-first.sql": b"create table steps(id serial, name text);",
            "20-second.sh": b"psql -c \"insert into steps(name) values ('sh')\"\n"
            b"until [ -e /tmp/go ]; do sleep 0.02; done",
            "30-third.sql.gz": gzip.compress(b"insert into steps(name) values ('gz');"),
            "50-other.txt": b"not for the server",
        }
        variables = {
            "POSTGRES_USER": _USER,
            "POSTGRES_PASSWORD": _PASSWORD,
            "POSTGRES_DB": _DATABASE,
            "POSTGRES_INITDB_ARGS": "--locale='C' --data-checksums",
            "PGDATA": "/var/lib/elsewhere",
        }
        container = self.start(
            *(f"--env={name}={value}" for name, value in variables.items()),
            "--tmpfs=/var/lib/elsewhere",
            command=("-c", "fsync=off", "-c", "max_connections=7"),
            files=files,
        )
        there = ("exec", container, *_PSQL)
        self.eventually(container, *_PSQL, "-c", "table steps")
        docker("exec", container, "pg_isready", "-h", "127.0.0.1", fails=True)
        docker("exec", container, "touch", "/tmp/go")
        self.eventually(container, *_PSQL, "-h", "127.0.0.1", "-c", "select 1")
        steps = docker(*there, "-c", "select string_agg(name, ' ' order by id) from steps")
        self.assertEqual("sh gz", steps)
        names = ("fsync", "max_connections", "data_checksums", "data_directory")
        shown = ", ".join(f"current_setting('{name}')" for name in names)
        told = docker(*there, "-c", f"select datcollate, {shown} from pg_database limit 1")
        self.assertEqual("C|off|7|on|/var/lib/elsewhere", told)
        address = docker("exec", container, "hostname", "-i")
        asks = (*_PSQL, "-h", address, "-c", "select 1")
        docker("exec", container, *asks, fails=True)
        docker("exec", "--env=PGPASSWORD", container, *asks, env={"PGPASSWORD": _PASSWORD})

    def test_data_outlive_a_restart(self) -> None:
        """Variables can be files; the server is process 1, the user's own, and is not kept up."""
        variables = ("HOST_AUTH_METHOD=trust", "DB_FILE=/etc/hostname", "INITDB_ARGS=--no-sync")
        options = (f"--env=POSTGRES_{variable}" for variable in variables)
        container = self.start(*options, "--hostname=orders")
        asks = ("psql", "-tA", "-h", "127.0.0.1", "-U", "postgres", "-d", "orders", "-c")
        self.eventually(container, *asks, 'create extension "uuid-ossp"')
        self.assertEqual("postgres", docker("exec", container, "stat", "-c", "%U", "/proc/1"))
        docker("exec", "--detach", container, *asks, "select pg_sleep(600)")
        docker("restart", "--time=30", container)
        self.eventually(container, *asks, "select uuid_nil()")

    def test_what_is_wrong_ends_the_container(self) -> None:
        """With a message that names it."""
        self.assert_ends(self.start(), "POSTGRES_PASSWORD")
        broken = {"broken.sql": b"select * from nowhere;"}
        failing = self.start("--env=POSTGRES_PASSWORD=a", _MEMORY, files=broken)
        self.assert_ends(failing, 'relation "nowhere" does not exist')


class RedisImageTest(ImageTest):
    """docker.io/library/redis."""

    name = "redis"

    def test_arguments_and_data(self) -> None:
        """The server's arguments alone; it is process 1, belongs to user redis, saves to /data."""
        container = self.start(command=("--maxmemory", "10mb"))
        self.eventually(container, "redis-cli", "-e", "ping")
        told = docker("exec", container, "redis-cli", "config", "get", "maxmemory")
        self.assertIn("10485760", told)
        docker("exec", container, "redis-cli", "save")
        for path in ("/proc/1", "/data/dump.rdb"):
            self.assertEqual("redis", docker("exec", container, "stat", "-c", "%U", path))
        self.assert_ends(self.start(command=("--no-such-setting", "1")), "no-such-setting")
