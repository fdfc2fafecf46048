"""Probes against real containers."""

from __future__ import annotations

import re
import threading
import time
import unittest
from typing import Any

from orchestrator import Container, Redis, Service, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.probes import All, Call, Exec, Healthcheck, Http, LogLine, NotReadyError, Tcp
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
        command=["sh", "-c", "echo up; sleep 0.3; echo up; sleep 600"],
        probe=LogLine(r"^up$", times=2),
    )
    worker = Container(image="redis", command=["sleep", "600"])  # without ports it need only run

    def test_dependents_start_when_the_others_are_ready(self) -> None:
        """A function is asked until it says yes, and then those begin that wait for it."""
        self.assertEqual(["slow"] * 3 + ["last"] * 3, ORDER)
        self.assertEqual("PONG", self.last.exec(["redis-cli", "ping"]).output.strip())

    def test_each_says_what_it_found_instead(self) -> None:
        """Arguments of a command may hold passwords, and are not shown."""
        hopeless: list[tuple[Any, Service, type[Exception], str]] = [
            (Http("/elsewhere"), self.web, NotReadyError, "status 404 instead of 200"),
            (Exec(["false", "hush"]), self.first, NotReadyError, "exit code 1"),
            (LogLine("^up", times=3), self.twice, NotReadyError, "2 of 3 log lines match"),
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
    """A class whose service does not become ready."""

    def assert_told(self, service: Service, *expected: str) -> None:
        """Start a class with the service and another that waits for it."""

        class Fails(ServicesMixin, unittest.TestCase):
            base = service
            app = Redis(depends_on=["base"])

            def test_it(self) -> None: ...

        text = self.assert_error(Fails, *expected)
        self.assertNotRegex(text, r"\bapp\b")  # which was not started

    def test_a_proxy_without_a_server_is_not_ready(self) -> None:
        """Where nothing listens the deadline passes; it is told with probe and attempts."""
        mute = Container(
            image="redis", command=["sleep", "60"], ports=[6379], startup_timeout=0.5, probe=Tcp()
        )
        self.assert_told(
            mute, "ServiceNotReadyError: base is not ready", "Tcp(main port)", "attempts"
        )

    def test_a_command_that_hangs_is_bounded_by_startup_timeout(self) -> None:
        """It ends in the ordinary error, which names it, and with its container."""
        before = threading.active_count()
        hung = Container(image="redis", probe=Exec(["sleep", "600"]), startup_timeout=0.5)
        self.assert_told(hung, "Exec(sleep, 1 arguments)", "still runs")
        deadline = time.monotonic() + 30
        while threading.active_count() > before:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_a_service_removed_by_somebody_else_is_told(self) -> None:
        """A container that vanishes while it starts is not waited for."""

        def remove(service: Container) -> bool:
            service.running.engine.remove_container(service.running.container)
            return False

        self.assert_told(Container(image="redis", probe=Call(remove)), "removed by somebody else")
