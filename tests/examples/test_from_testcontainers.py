"""What takes the place of what in testcontainers-python; the page beside this file says it."""

import unittest
import urllib.request

import psycopg
from sqlalchemy import create_engine, make_url, text

from orchestrator import Container, Postgres, ServicesMixin
from orchestrator.probes import All, Call, Exec, Http, LogLine, Tcp

SERVER = """
import runpy
print("serving", flush=True)
runpy.run_module("http.server", run_name="__main__")
"""


class GenericTest(ServicesMixin, unittest.TestCase):
    """`DockerContainer` is a `Container`; its methods are options."""

    web = Container(
        image="python",
        command=["python", "-c", SERVER],
        ports=[8000],
        env={"GREETING": "hello"},
        files={"/site/index.html": b"welcome"},
        entrypoint=["env", "-C", "/site"],
        tmpfs={"/scratch": "1m"},
        memory="64m",
        probe=All(
            LogLine("serving", times=1),
            Tcp(8000),
            Http("/", port=8000, status=200),
            Exec(["test", "-e", "/site/index.html"]),
            Call(lambda web: urllib.request.urlopen(f"http://{web.host}:{web.port}").close()),
        ),
        startup_timeout=60,
    )

    def test_it_answers_where_its_port_is_published(self) -> None:
        """`get_container_host_ip()` and `get_exposed_port(8000)`."""
        url = f"http://{self.web.host}:{self.web.port_of(8000)}/"
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(b"welcome", answer.read())
        self.assertIn("GET /", self.web.logs())

    def test_commands_and_files(self) -> None:
        """`exec`, `copy_into_container` and `copy_from_container`."""
        self.web.write_file("/tmp/name", b"ada")
        told = self.web.exec(["sh", "-c", "echo $GREETING $(cat /tmp/name) > /tmp/told"])
        self.assertEqual(0, told.exit_code, told.stderr)
        self.assertEqual(b"hello ada\n", self.web.read_file("/tmp/told"))


class ConnectionUrlTest(ServicesMixin, unittest.TestCase):
    """`PostgresContainer.get_connection_url(driver=…)`."""

    db = Postgres()

    def test_a_url_for_any_driver(self) -> None:
        """As it is, or with a driver's name for SQLAlchemy, it leads to where the test is."""
        with psycopg.connect(self.db.url) as connection:
            connection.execute("create table orders (id int)")
        engine = create_engine(make_url(self.db.url).set(drivername="postgresql+psycopg"))
        self.addCleanup(engine.dispose)
        with engine.connect() as connected:
            self.assertEqual([], connected.execute(text("select * from orders")).all())
