"""Probes against real containers."""

import os
import re
import unittest
from concurrent import futures
from typing import Any
from unittest import mock

from orchestrator import Container, Redis, Service, ServicesMixin
from orchestrator.errors import DeclarationError, ServiceNotReadyError
from orchestrator.probes import All, Call, Exec, Healthcheck, Http, LogLine, NotReadyError, Tcp
from orchestrator.sessions import Thing, remove_things
from tests.support.classes import LeakCheckedTestCase

# The test images have perl, because Debian has: a web server in a line, on the port given.
WEB = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5,"
    " ReuseAddr => 1) or die; while (my $c = $s->accept) { my $line = <$c>;"
    ' print $c "HTTP/1.0 ", $line =~ m{ /health } ? "200 OK" : "404 Not Found", "\\r\\n\\r\\n";'
    " close $c; }"
)
ORDER: list[str] = []


def note(service: Container) -> bool:
    """Ready when asked for the third time; what was ready in which order is noted."""
    ORDER.append(service.alias)
    service.port_of(6379)
    return ORDER.count(service.alias) > 2


def broken(_: Container) -> None:
    """A user's function with a mistake."""
    raise LookupError("no table yet")


class ProbesTest(ServicesMixin, unittest.TestCase):
    """Each kind tells a ready server from one that is not; the class starts by them."""

    last = Container(image="redis", ports=[6379], probe=Call(note), depends_on=["first", "slow"])
    first = Container(image="redis", ports=[6379], probe=All(Exec(["redis-cli", "ping"]), Tcp()))
    # Docker's proxy accepts at once: the probe needs a server that keeps the connection.
    slow = Container(
        image="redis",
        command=["sh", "-c", "sleep 1; exec redis-server --protected-mode no"],
        ports=[6379],
        probe=All(Tcp(), Call(note)),
        depends_on=[first],
    )
    web = Container(
        image="postgres", command=["perl", "-e", WEB], ports=[8080], probe=Http("/health")
    )
    twice = Container(
        image="redis",
        command=["sh", "-c", "echo up; sleep 0.3; echo up; sleep 0.3; echo over; sleep 600"],
        probe=All(LogLine(r"^up$", times=2), Call(lambda box: "over" in box.logs())),
    )
    # It has long ended when it is looked at, and its last line has no end.
    job = Container(
        image="redis", command=["printf", r"upper\ndo%020000dne", "0"], probe=LogLine("^do0+ne$")
    )
    worker = Container(image="redis", command=["sleep", "600"])  # without ports it need only run

    def test_dependents_start_when_the_others_are_ready(self) -> None:
        """A function is asked until it says yes, and then those begin that wait for it."""
        # Once more, where the class was started ahead and is taken over.
        self.assertEqual(["slow"] * 3 + ["last"] * 3, ORDER[:6])
        self.assertEqual("PONG", self.last.exec(["redis-cli", "ping"]).output.strip())

    def test_after_a_restart_only_new_lines_count(self) -> None:
        """For whatever probe reads the log; `logs` has all of them, as before."""
        for times, again in ((2, [self.twice.restart]), (3, [self.twice.kill, self.twice.restart])):
            for step in again:
                step()
            lines = self.twice.logs().splitlines()
            self.assertEqual((2 * times, times), (lines.count("up"), lines.count("over")))

    def test_each_says_what_it_found_instead(self) -> None:
        """Arguments of a command may hold passwords, and are not shown."""
        hopeless: list[tuple[Any, Service, type[Exception], str]] = [
            (Http("/elsewhere"), self.web, NotReadyError, "status 404 instead of 200"),
            (Exec(["false", "hush"]), self.first, NotReadyError, "exit code 1"),
            (LogLine("^up$"), self.job, NotReadyError, "0 of 1 log lines match"),
            (Healthcheck(), self.worker, DeclarationError, "no HEALTHCHECK"),
            (Call(broken), self.worker, LookupError, "no table yet"),
            (All(Tcp(), Exec(["false"])), self.first, NotReadyError, "exit code 1"),
            (
                Call(lambda box: box.port_of(81)),
                self.first,
                DeclarationError,
                "does not publish port 81/tcp",
            ),
        ]
        for probe, service, kind, expected in hopeless:
            with self.subTest(str(probe)):
                with self.assertRaisesRegex(kind, re.escape(expected)):
                    probe.check(service)
                self.assertNotIn("hush", str(probe))


class FailedStartTest(LeakCheckedTestCase):
    """A class whose service does not become ready; another that waits for it is not started."""

    def setUp(self) -> None:
        """Have the deadlines that are declared."""
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ, ORCHESTRATOR_STARTUP_TIMEOUT=""))

    def test_each_is_told_with_probe_and_attempts(self) -> None:
        """Where nothing listens; where a command hangs; where somebody removes the container."""

        def remove(service: Container) -> bool:
            gone = Thing("container", service.container_id, service.alias)
            remove_things(service.running.engine, [gone], seconds=5)
            return False

        options: dict[str, Any] = {"command": ["sleep", "60"], "ports": [1], "startup_timeout": 0.5}
        for probe, expected in (
            (Tcp(), ("ServiceNotReadyError: base: ", "Tcp(port=None)", "attempts")),
            (Exec(["sleep", "600"]), ("Exec(sleep, 1 arguments)", "still runs")),
            (Call(remove), ("removed by somebody else",)),
        ):
            base = Container(image="redis", probe=probe, **options)
            with self.subTest(repr(probe)):
                told = self.assert_cannot_start(*expected, base=base, app=Redis(depends_on=[base]))
                self.assertNotRegex(told, r"\bapp\b")

    def test_a_server_that_is_out_of_reach_is_told_where_it_listens(self) -> None:
        """Another port or address, not while at work; ORCHESTRATOR_STARTUP_TIMEOUT counts."""
        os.environ["ORCHESTRATOR_STARTUP_TIMEOUT"] = "6"
        listen = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '%s', "
        listen += "LocalPort => %d, Listen => 1) or die; "

        def server(address: str, port: int, then: str = "sleep 60", **options: Any) -> Container:
            return Container(
                image="redis",
                entrypoint=["perl", "-e", listen % (address, port) + then],
                startup_timeout=0.5,
                probe=Http(),  # Docker's proxy may hang up too late for Tcp on a busy machine
                **options,
            )

        own = ["redis-server", "--protected-mode", "no", "--bind", "127.0.0.1"]
        at_work = r"(?s)in ([6-9]|\d\d)\.\d s and .*still at work.*ORCHESTRATOR_STARTUP_"
        elsewhere = "Nothing in its container listens on port 80, but on 8081"

        def told(service: Container | Redis) -> str:
            with self.assertRaises(ServiceNotReadyError) as caught:
                service.__enter__()
            return str(caught.exception)

        services = {
            elsewhere: server("0.0.0.0", 8081, ports=[80]),  # noqa: S104
            "port 80 of 127.0.0.1 in its": server("127.0.0.1", 80, ports=[80]),
            "port 6379 of 127.0.0.1 in its": Redis(command=own, startup_timeout=0.5),
            at_work: server("127.0.0.1", 1, "1 while 1", ports=[80]),
        }
        with futures.ThreadPoolExecutor(len(services)) as pool:
            for expected, text in zip(services, pool.map(told, services.values()), strict=True):
                self.assertRegex(text, expected)
