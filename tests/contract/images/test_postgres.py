"""The contract of the postgres image."""

from __future__ import annotations

import gzip
from typing import ClassVar

from tests.contract.images.case import ImageTest

MEMORY = "--tmpfs=/var/lib/postgresql/data"  # where initdb takes no time
INIT = "/docker-entrypoint-initdb.d"
PSQL = ("psql", "--no-psqlrc", "-tA", "-h", "127.0.0.1")
PASSWORD = 'it\'s "50%" $HOME é\\n'


class PostgresImageTest(ImageTest):
    """The contract of docker.io/library/postgres."""

    name = "postgres"
    configured: ClassVar[str]
    filed: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """Have one server with all that can be configured, and one that reads that from files."""
        super().setUpClass()
        files = {
            "10-first.sql": b"create table steps(id serial, name text);",
            "20-second.sh": b"psql -c \"insert into steps(name) values ('sh')\"",
            "30-third.sql.gz": gzip.compress(b"insert into steps(name) values ('gz');"),
            "40-fourth.sql": b"insert into steps(name) values ('sql');",
            "50-other.txt": b"not for the server",
        }
        cls.configured = cls.start(
            *("-c", "fsync=off", "-c", "max_connections=7"),
            options=(cls.folder(files, INIT), "--tmpfs=/var/lib/elsewhere"),
            env={
                "POSTGRES_USER": "we ird",
                "POSTGRES_PASSWORD": PASSWORD,
                "POSTGRES_DB": 'my "db',
                "POSTGRES_INITDB_ARGS": "--locale='C' --data-checksums",
                "PGDATA": "/var/lib/elsewhere",
            },
        )
        secrets = {"user": b"shop\n", "password": b"secret\n", "db": b"orders\n", "args": b"-k\n"}
        names = {"USER": "user", "PASSWORD": "password", "DB": "db", "INITDB_ARGS": "args"}
        cls.filed = cls.start(
            options=(cls.folder(secrets, "/run/secrets"), MEMORY),
            env={
                "POSTGRES_HOST_AUTH_METHOD": "trust",
                **{f"POSTGRES_{key}_FILE": f"/run/secrets/{name}" for key, name in names.items()},
            },
        )

    def ready(self, container: str, user: str = "postgres") -> None:
        """Wait for the real server: the temporary one has no TCP port."""
        probe = (*PSQL, "-U", user, "-d", "postgres", "-c", "select 1")
        self.eventually(lambda: self.answers(container, *probe), container)

    def sql(self, container: str, statement: str, user: str, database: str) -> str:
        """Run a statement over the loopback, which the default rules trust."""
        self.ready(container, user)
        return self.execute(container, *PSQL, "-U", user, "-d", database, "-c", statement)

    def asked(self, statement: str) -> str:
        """Ask the server with all that can be configured."""
        return self.sql(self.configured, statement, "we ird", 'my "db')

    def test_declares_its_interface(self) -> None:
        """The image declares its volume, port and stop signal."""
        expected = [{"/var/lib/postgresql/data": {}}, {"5432/tcp": {}}, "SIGINT"]
        self.assertEqual(expected, self.config("Volumes", "ExposedPorts", "StopSignal"))

    def test_user_password_and_database(self) -> None:
        """User, password and database of any spelling work, and other hosts need the password."""
        self.ready(self.configured, "we ird")
        address = self.execute(self.configured, "hostname", "-i")
        probe = ("psql", "-h", address, "-U", "we ird", "-d", 'my "db', "-w", "-c", "select 1")
        self.assertFalse(self.answers(self.configured, *probe))
        self.execute(self.configured, *probe, env={"PGPASSWORD": PASSWORD})

    def test_arguments_go_to_the_server_and_to_initdb(self) -> None:
        """Those with a dash; POSTGRES_INITDB_ARGS are shell words; PGDATA moves the data."""
        names = ("fsync", "max_connections", "data_checksums", "data_directory")
        shown = ", ".join(f"current_setting('{name}')" for name in names)
        told = self.asked(f"select datcollate, {shown} from pg_database limit 1")
        self.assertEqual("C|off|7|on|/var/lib/elsewhere", told)

    def test_init_files_run_in_order(self) -> None:
        """Init files .sh, .sql and .sql.gz run in the order of their names, in the database."""
        query = "select string_agg(name, ' ' order by id) from steps"
        self.assertEqual("sh gz sql", self.asked(query))

    def test_files_and_trust(self) -> None:
        """Each variable can be given as a file, by the name with _FILE; trust lets every host in.

        The server is process 1 and belongs to user postgres, its encoding is UTF-8, it has contrib.
        """
        self.ready(self.filed, "shop")
        address = self.execute(self.filed, "hostname", "-i")
        shown = "current_database(), current_setting('data_checksums'), pg_client_encoding()"
        asks = ("psql", "-tA", "-h", address, "-U", "shop", "-w", "-c", f"select {shown}", "orders")
        self.assertEqual("orders|on|UTF8", self.execute(self.filed, *asks))
        self.assertEqual("postgres", self.execute(self.filed, "stat", "-c", "%U", "/proc/1"))
        extensions = ("pg_trgm", "hstore", "uuid-ossp", "pgcrypto", "citext", "postgres_fdw")
        created = "; ".join(f'create extension "{extension}"' for extension in extensions)
        self.sql(self.filed, created, "shop", "orders")

    def test_what_is_wrong_ends_the_container(self) -> None:
        """With a message that names it."""
        password = {"POSTGRES_PASSWORD": "a"}
        broken = self.folder({"broken.sql": b"select * from nowhere;"}, INIT)
        none, failing = self.start(), self.start(env=password, options=(broken, MEMORY))
        self.assert_ends(none, "POSTGRES_PASSWORD", status=1)
        self.assert_ends(failing, 'relation "nowhere" does not exist')

    def test_first_start_second_start_and_stop(self) -> None:
        """No TCP port before init files are done, which run once; no client delays a stop."""
        files = {
            "once.sql": b"create table once();",
            "wait.sh": b"until [ -e /tmp/go ]; do sleep 0.02; done",
        }
        mount = self.folder(files, INIT)
        container = self.start(options=(mount,), env={"POSTGRES_PASSWORD": "x"})
        probe = ("psql", "-U", "postgres", "-c", "table once")
        self.eventually(lambda: self.answers(container, *probe), container)
        for host in ("127.0.0.1", self.execute(container, "hostname", "-i")):
            self.assertFalse(self.answers(container, "pg_isready", "-h", host))
        self.execute(container, "touch", "/tmp/go")
        whole = (container, "create table kept as select 42 as answer", "postgres", "postgres")
        self.sql(*whole)
        self.client.restart(container)
        kept = self.sql(container, "select answer from kept", "postgres", "postgres")
        self.assertEqual("42", kept)
        sleeper = ["psql", "-U", "postgres", "-c", "select pg_sleep(600)"]
        self.client.exec_start(self.client.exec_create(container, sleeper)["Id"], detach=True)
        query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        self.eventually(
            lambda: self.sql(container, query, "postgres", "postgres") == "1", container
        )
        self.client.stop(container, timeout=30)
        self.assert_ends(container, "", status=0)
