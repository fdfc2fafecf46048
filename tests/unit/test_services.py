"""Services without a server: how they start, what is made once, certificates, what logs tell."""

import contextlib
import os
import signal
import ssl
import stat
import sys
import threading
import unittest
import warnings
from concurrent import futures
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator import Kafka, Postgres, Redis, Services
from orchestrator.environment.warm import may_be_warm
from orchestrator.errors import MissingDriverError
from orchestrator.services import kafka
from orchestrator.services.kafka import start_command
from orchestrator.services.once import ProcessLock, locked_property
from orchestrator.services.postgres import server as postgres
from orchestrator.services.postgres import setup
from orchestrator.services.tls import PemFiles, Tls
from orchestrator.settings import Settings

_SHUT_DOWN = "CREATE TABLE\nLOG:  database system is shut down\n"
_READY = "LOG:  database system is ready to accept connections\n"
_THROWN = (
    'run: error: Exception in thread "main" org.apache.kafka.common.config.ConfigException: '
    "Invalid value many for configuration num.partitions: Not a number of type INT\n"
    "\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:776)\n"
)


class Own(Postgres):
    """A service of the user's, which does something when it is ready."""

    def prepare(self) -> None:
        """Whatever it is."""


HOSTS = ("localhost", "docker", "127.0.0.1", "::1", "my_events", "my--events", "_x_")


def handshake(tls: Tls, client: ssl.SSLContext, host: str) -> None:
    """Let a client connect to a server by a host name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with PemFiles() as files:
        server.load_cert_chain(files.write("server.pem", tls.server.pem))
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(ours, theirs, server_hostname=host),
        server.wrap_bio(theirs, ours, server_side=True),
    ]
    for side in sides * 2:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


class Handle:
    """Makes its client when that is first read."""

    def __init__(self) -> None:
        self.makers = 0
        self.crowd = threading.Barrier(2)

    @locked_property
    def client(self) -> object:
        """A client, unless two threads make it at the same moment."""
        self.makers += 1
        with contextlib.suppress(threading.BrokenBarrierError):
            self.crowd.wait(0.2)  # whoever else makes one is here by then
        return object()


@unittest.skipUnless(hasattr(os, "fork"), "no fork here")
class ProcessLockTest(unittest.TestCase):
    """A child never waits for a thread that was left in its parent."""

    def test_a_child_may_take_what_was_held_at_the_fork(self) -> None:
        """By another thread, which does not exist in it, or by the one that forks."""
        lock, mine = ProcessLock(), ProcessLock()
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with lock.held():
                held.set()
                over.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(over.set)
        held.wait(10)
        with mine.held(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads are the point here
            child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            with lock.held(), mine.held():
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.assertEqual(0, os.waitstatus_to_exitcode(status))


class ServicesTest(unittest.TestCase):
    """How a server is started, what was made before, what is made once, what logs tell."""

    def test_settings_are_written_as_the_server_reads_them(self) -> None:
        """True is on, or yes; numbers are digits; words are words."""
        command = Postgres(settings={"jit": False, "fsync": True, "work_mem": 64}).server_command()
        self.assertLessEqual({"jit=off", "fsync=on", "work_mem=64"}, {*command})
        command = Redis(settings={"appendonly": True, "save": "900 1", "hz": 50}).server_command()
        for words in ("--appendonly yes", "--save 900 1", "--hz 50"):
            self.assertIn(words, " ".join(command))

    def test_what_is_not_known_of_kafka_is_left_to_the_image(self) -> None:
        """Another command, settings of the storage, variables that the image makes something of."""
        apache = ["/etc/kafka/docker/run"]
        known = start_command(apache, settings={"num.partitions": "3"}, env={"LANG": "C"})
        self.assertEqual("sh", (known or ["the image's"])[0])
        for command, settings, env in (
            (["/my/run"], {}, {}),
            (apache, {"node.id": "2"}, {}),
            (apache, {}, {"KAFKA_LOG4J_ROOT_LOGLEVEL": "WARN"}),
        ):
            with self.subTest(command=command, settings=settings, env=env):
                self.assertIsNone(start_command(command, settings=settings, env=env))

    def test_warm(self) -> None:
        """Not what lives longer or shorter than the class, or has to happen in this process."""
        warm: dict[str, Any] = {"warm": 60.0}
        yes = {"db": Postgres(), "cache": Redis(), "events": Kafka()}
        self.assertTrue(may_be_warm(yes, Settings(**warm)))
        for service in (Redis(scope="test"), Redis(scope="process"), Redis(log_to="a"), Own()):
            with self.subTest(service):
                self.assertFalse(may_be_warm({**yes, "own": service}, Settings(**warm)))
        for setting in ({"warm": 0.0}, {"keep_failed": True}, {"timeline": "page.html"}):
            with self.subTest(setting):
                self.assertFalse(may_be_warm(yes, Settings(**{**warm, **setting})))

    def test_snapshots(self) -> None:
        """Not what is on the disk, started in another way, or prepared by other code."""
        self.assertTrue(Postgres().snapshot_key("sha256:0"))
        options: Any
        for options in (
            {"durable": True},
            {"memory": "1g"},
            {"command": ["postgres"]},
            {"env": {"PGDATA": "/data"}},
        ):
            with self.subTest(options):
                self.assertIsNone(Postgres(**options).snapshot_key("sha256:0"))
        self.assertIsNone(Own().snapshot_key("sha256:0"))

    def test_postgres(self) -> None:
        """The init file that failed, else what it did not start for; not what ended a client."""
        before = "docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sh\n"
        for told, logs in (
            ("the init file a.sh failed", f"{before}no luck\n"),
            (
                "could not map anonymous shared memory",
                f"{before}{_SHUT_DOWN}FATAL:  could not map anonymous shared memory\n",
            ),
            (
                "",
                f'{_READY}FATAL:  password authentication failed for user "app"\n',
            ),
        ):
            with self.subTest(told):
                self.assertEqual(told, postgres.why_ended(logs, ["a.sh"]))

    def test_kafka(self) -> None:
        """The exception it did not start for; a broker that ran logs its clients' and goes on."""
        self.assertEqual(
            "ConfigException: Invalid value many for configuration num.partitions: Not a number "
            "of type INT",
            kafka.why_ended(_THROWN),
        )
        ran = f"INFO Kafka Server started (kafka.server)\n{_THROWN}"
        self.assertEqual("", kafka.why_ended(ran))

    def test_isolation_is_no_news(self) -> None:
        """Topics that are made and deleted are not; groups, warnings and errors are."""
        topics = (
            "INFO [Broker id=1] Deleting 1 partition(s). (state.change.logger)",
            "INFO Created log for partition a-0 in /tmp/a-0 with properties (kafka.log.LogManager)",
        )
        news = (
            "WARN [Partition a-0 broker=1] Shrinking ISR from 1,2 to 1. (kafka.cluster.Partition)",
            (
                "INFO [GroupCoordinator id=1 partition=0] Stabilized group g "
                "(org.apache.kafka.coordinator.group.GroupMetadataManager)"
            ),
            "java.io.IOException: No space left on device",
        )
        lines = [f"[2026-11-27 08:36:10,587] {line}" for line in (*topics, *news)]
        self.assertEqual(lines[-3:], list(filter(Kafka().is_news, lines)))

    def test_a_server_is_trusted_under_each_of_its_names(self) -> None:
        """Addresses, names that only Docker allows; under no other, by no other authority."""
        tls = Tls.create(HOSTS)
        self.assertNotIn("PRIVATE", repr(tls))
        context = tls.client_context
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        for host in HOSTS:
            with self.subTest(host):
                handshake(tls, context, host)
        for server, host in ((tls, "elsewhere"), (Tls.create(HOSTS), "localhost")):
            with self.assertRaises(ssl.SSLCertVerificationError):
                handshake(server, context, host)

    def test_without_trustme_the_error_names_the_extra(self) -> None:
        """It is needed by those only who use TLS."""
        with (
            mock.patch.dict("sys.modules", {"trustme": None}),
            self.assertRaisesRegex(MissingDriverError, r"unittest-orchestrator\[tls\]"),
        ):
            Tls.create(HOSTS)

    def test_files_are_the_users_own_and_go(self) -> None:
        """They may hold keys; a forked child leaves them."""
        with PemFiles() as files:
            path = Path(files.write("key.pem", b"secret"))
            child = os.fork()
            if child == 0:
                files.close()
                os._exit(0)
            self.assertEqual(0, os.waitpid(child, 0)[1])
            self.assertEqual(b"secret", path.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
            self.assertEqual(0o700, stat.S_IMODE(path.parent.stat().st_mode))
        self.assertFalse(path.parent.exists())

    def test_two_threads_at_the_same_moment_get_the_same(self) -> None:
        """The second waits for the first."""
        handle = Handle()
        with futures.ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: handle.client, range(2))
        self.assertIs(first, second)
        self.assertEqual(1, handle.makers)

    def test_what_a_class_cannot_do_without_is_told_before_it_starts(self) -> None:
        """With the attribute; a Postgres of which only the URL is used needs no driver."""

        class Shop(Services):
            url_only = Postgres(isolation="none", image="never.invalid/it@sha256:" + 64 * "0")
            db = Postgres()

        gone: dict[str, Any] = {"psycopg": None}
        words = r"Shop: db = Postgres\(.*'psycopg'.*install 'unittest-orchestrator\[postgres\]'"
        with (
            mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, words),
        ):
            Shop().__enter__()

    def test_alembic_is_installed_by_its_own_name(self) -> None:
        """No extra brings it: only whoever has migrations of that kind needs it."""
        gone: dict[str, Any] = {"alembic": None, "alembic.command": None}
        config = mock.MagicMock(attributes={})
        handle = mock.MagicMock(migrate=config)
        with (
            mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, "Run: pip install alembic$"),
        ):
            setup.migrate(handle, key=lambda _: None)
