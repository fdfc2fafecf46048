"""The contract of the postgres image."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import ClassVar

from tests.contract.images.case import ImageTest, docker


class PostgresImageTest(ImageTest):
    """The contract of docker.io/library/postgres."""

    name = "postgres"
    tcp: ClassVar[tuple[str, ...]] = ("psql", "--no-psqlrc", "-tA", "-h", "127.0.0.1")

    def ready(self, container: str, user: str = "postgres") -> None:
        """Wait for the real server: the temporary one has no TCP port."""
        probe = (*self.tcp, "-U", user, "-d", "postgres", "-c", "select 1")
        self.eventually(lambda: self.answers(container, *probe), container)

    def sql(
        self, container: str, statement: str, user: str = "postgres", database: str = ""
    ) -> str:
        """Run a statement over the loopback, which the default rules trust."""
        chosen = ("-U", user, "-d", database or user)
        return self.execute(container, *self.tcp, *chosen, "-c", statement)

    def init_directory(self, files: dict[str, bytes]) -> str:
        """Return the option that mounts files as init scripts."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        root = Path(directory.name)
        root.chmod(0o755)
        for name, content in files.items():
            (root / name).write_bytes(content)
        return f"--volume={root}:/docker-entrypoint-initdb.d:ro"

    def test_declares_its_interface(self) -> None:
        """The image declares its volume, port and stop signal."""
        self.assertEqual({"/var/lib/postgresql/data": {}}, self.config("Volumes"))
        self.assertEqual({"5432/tcp": {}}, self.config("ExposedPorts"))
        self.assertEqual("SIGINT", self.config("StopSignal"))

    def test_refuses_without_password(self) -> None:
        """Without a password the container ends at once and says which variable is missing."""
        container = self.start()
        self.assertEqual(1, self.wait_exit(container))
        self.assertIn("POSTGRES_PASSWORD", self.logs(container))

    def test_trust_needs_no_password(self) -> None:
        """POSTGRES_HOST_AUTH_METHOD=trust starts without a password and lets every host in."""
        container = self.start(env={"POSTGRES_HOST_AUTH_METHOD": "trust"})
        self.ready(container)
        address = self.execute(container, "hostname", "-i")
        probe = ("psql", "-h", address, "-U", "postgres", "-w", "-c", "select 1")
        self.assertTrue(self.answers(container, *probe))

    def test_user_password_and_database(self) -> None:
        """User, password and database of any spelling work, and other hosts need the password."""
        password = 'it\'s "50%" $HOME é\\n'
        env = {"POSTGRES_USER": "we ird", "POSTGRES_PASSWORD": password, "POSTGRES_DB": 'my "db'}
        container = self.start(env=env)
        self.ready(container, user="we ird")
        address = self.execute(container, "hostname", "-i")
        probe = ("psql", "-h", address, "-U", "we ird", "-d", 'my "db', "-w", "-c", "select 1")
        self.assertFalse(self.answers(container, *probe))
        docker("exec", f"--env=PGPASSWORD={password}", container, *probe)

    def test_database_defaults_to_user(self) -> None:
        """Without POSTGRES_DB the database is called as the user."""
        container = self.start(env={"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "x"})
        self.ready(container, user="shop")
        self.assertEqual("shop", self.sql(container, "select current_database()", user="shop"))

    def test_file_variants(self) -> None:
        """Each variable can be given as a file by the name with _FILE."""
        mount = self.init_directory(
            {"user": b"shop\n", "password": b"secret\n", "db": b"orders\n", "args": b"-k\n"}
        ).replace("/docker-entrypoint-initdb.d", "/run/secrets")
        names = {"USER": "user", "PASSWORD": "password", "DB": "db", "INITDB_ARGS": "args"}
        env = {f"POSTGRES_{key}_FILE": f"/run/secrets/{file}" for key, file in names.items()}
        container = self.start(options=(mount,), env=env)
        self.ready(container, user="shop")
        address = self.execute(container, "hostname", "-i")
        url = f"postgresql://shop:secret@{address}/orders"
        self.assertEqual(
            "on", self.execute(container, "psql", "-tA", url, "-c", "show data_checksums")
        )

    def test_variable_and_file_exclude_each_other(self) -> None:
        """A variable and its _FILE together are refused."""
        env = {"POSTGRES_PASSWORD": "a", "POSTGRES_PASSWORD_FILE": "/etc/hostname"}
        container = self.start(env=env)
        self.assertEqual(1, self.wait_exit(container))
        self.assertIn("POSTGRES_PASSWORD_FILE", self.logs(container))

    def test_initdb_arguments(self) -> None:
        """POSTGRES_INITDB_ARGS are shell words for initdb."""
        env = {"POSTGRES_PASSWORD": "x", "POSTGRES_INITDB_ARGS": "--locale='C' --data-checksums"}
        container = self.start(env=env)
        self.ready(container)
        query = "select datcollate, current_setting('data_checksums') from pg_database limit 1"
        self.assertEqual("C|on", self.sql(container, query))

    def test_init_files_run_in_order(self) -> None:
        """Init files .sh, .sql and .sql.gz run in the order of their names, in the database."""
        files = {
            "10-first.sql": b"create table steps(id serial, name text);",
            "20-second.sh": b"psql -c \"insert into steps(name) values ('sh')\"",
            "30-third.sql.gz": gzip.compress(b"insert into steps(name) values ('gz');"),
            "40-fourth.sql": b"insert into steps(name) values ('sql');",
            "50-other.txt": b"not for the server",
        }
        env = {"POSTGRES_PASSWORD": "x", "POSTGRES_DB": "shop"}
        container = self.start(options=(self.init_directory(files),), env=env)
        self.ready(container)
        query = "select string_agg(name, ' ' order by id) from steps"
        self.assertEqual("sh gz sql", self.sql(container, query, database="shop"))

    def test_broken_init_file_ends_the_container(self) -> None:
        """An SQL error in an init file ends the container with the server's message."""
        mount = self.init_directory({"broken.sql": b"select * from nowhere;"})
        container = self.start(options=(mount,), env={"POSTGRES_PASSWORD": "x"})
        self.assertNotEqual(0, self.wait_exit(container))
        self.assertIn('relation "nowhere" does not exist', self.logs(container))

    def test_temporary_server_has_no_tcp_port(self) -> None:
        """While init files run, the server answers on the unix socket only."""
        waits = b"until [ -e /tmp/go ]; do sleep 0.02; done"
        mount = self.init_directory({"wait.sh": waits})
        container = self.start(options=(mount,), env={"POSTGRES_PASSWORD": "x"})
        probe = ("psql", "-U", "postgres", "-c", "select 1")
        self.eventually(lambda: self.answers(container, *probe), container)
        address = self.execute(container, "hostname", "-i")
        for host in ("127.0.0.1", address):
            self.assertFalse(self.answers(container, "pg_isready", "-h", host))
        self.execute(container, "touch", "/tmp/go")
        self.ready(container)

    def test_arguments_go_to_the_server(self) -> None:
        """Arguments that begin with a dash are the server's."""
        container = self.start(
            "-c", "fsync=off", "-c", "max_connections=7", env={"POSTGRES_PASSWORD": "x"}
        )
        self.ready(container)
        self.assertEqual("off", self.sql(container, "show fsync"))
        self.assertEqual("7", self.sql(container, "show max_connections"))

    def test_other_command_runs_as_it_is(self) -> None:
        """A command of one's own runs instead of the server."""
        container = self.start("postgres", "--version")
        self.assertEqual(0, self.wait_exit(container))
        self.assertIn("(PostgreSQL) 15.", self.logs(container))

    def test_existing_database_is_kept(self) -> None:
        """A second start of the container keeps the data and runs no init file again."""
        mount = self.init_directory({"once.sql": b"create table once();"})
        container = self.start(options=(mount,), env={"POSTGRES_PASSWORD": "x"})
        self.ready(container)
        self.sql(container, "create table kept as select 42 as answer")
        docker("restart", container)
        self.ready(container)
        self.assertEqual("42", self.sql(container, "select answer from kept"))

    def test_custom_data_directory(self) -> None:
        """PGDATA moves the database, for example out of the volume."""
        env = {"POSTGRES_PASSWORD": "x", "PGDATA": "/var/lib/elsewhere"}
        container = self.start(env=env)
        self.ready(container)
        self.assertEqual("/var/lib/elsewhere", self.sql(container, "show data_directory"))

    def test_server_runs_as_postgres(self) -> None:
        """The server is process 1 and belongs to user postgres."""
        container = self.start(env={"POSTGRES_PASSWORD": "x"})
        self.ready(container)
        self.assertEqual("postgres", self.execute(container, "stat", "-c", "%U", "/proc/1"))

    def test_stops_cleanly(self) -> None:
        """`docker stop` is a fast shutdown with exit code 0, also with a client connected."""
        container = self.start(env={"POSTGRES_PASSWORD": "x"})
        self.ready(container)
        sleeper = ("psql", "-U", "postgres", "-c", "select pg_sleep(600)")
        docker("exec", "--detach", container, *sleeper)
        query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        self.eventually(lambda: self.sql(container, query) == "1", container)
        docker("stop", "--time=30", container)
        self.assertEqual("0", self.state(container, "ExitCode"))

    def test_contrib_and_locale(self) -> None:
        """The contrib extensions are there, and the database is UTF-8."""
        container = self.start(env={"POSTGRES_PASSWORD": "x"})
        self.ready(container)
        for extension in ("pg_trgm", "hstore", "uuid-ossp", "pgcrypto", "citext", "postgres_fdw"):
            self.sql(container, f'create extension "{extension}"')
        self.assertEqual("UTF8", self.sql(container, "show server_encoding"))
