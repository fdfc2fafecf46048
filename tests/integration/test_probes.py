"""Probes against real containers."""

from __future__ import annotations

import threading
import time
import unittest

from orchestrator import Container, Redis, Service, ServicesMixin
from orchestrator.probes import All, Call, Exec, Healthcheck, Http, LogLine, Probe, Tcp
from tests.support.classes import LeakCheckedTestCase

# The test images have perl, because Debian has: a web server in a line, on the port given.
WEB = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5,"
    " ReuseAddr => 1) or die; while (my $c = $s->accept) { my $line = <$c>;"
    ' print $c "HTTP/1.0 ", $line =~ m{ /health } ? "200 OK" : "404 Not Found", "\\r\\n\\r\\n";'
    " close $c; }"
)


def class_with(service: Service) -> type[unittest.TestCase]:
    """A test class with one service and one test."""

    class One(ServicesMixin, unittest.TestCase):
        service_under_test = service

        def test_it(self) -> None:
            state = self.service_under_test.state()
            self.assertTrue(state is not None and state.running)

    return One


def redis_with(probe: Probe) -> Service:
    """A container with a real server and some probe."""
    return Container(image="redis", ports=[6379], probe=probe, startup_timeout=10)


class ProbesTest(LeakCheckedTestCase):
    """Each probe tells a ready server from one that is not."""

    def test_tcp_waits_for_the_server_behind_dockers_proxy(self) -> None:
        """Docker's proxy accepts at once; the probe needs a server that keeps the connection."""
        slow = ["sh", "-c", "sleep 1; exec redis-server --protected-mode no"]
        self.assert_passes(
            class_with(Container(image="redis", command=slow, ports=[6379], probe=Tcp()))
        )

    def test_tcp_does_not_take_the_proxy_for_a_server(self) -> None:
        """Where nothing listens the deadline passes."""
        mute = Container(
            image="redis", command=["sleep", "60"], ports=[6379], probe=Tcp(), startup_timeout=0.5
        )
        self.assert_error(class_with(mute), "Tcp(main port)", "is not ready")

    def test_a_port_that_is_not_published_is_told_at_once(self) -> None:
        """No deadline passes for what is declared wrong."""
        wrong = redis_with(Call(lambda box: box.port_of(81)))
        self.assert_error(class_with(wrong), "DeclarationError", "does not publish port 81/tcp")

    def test_http_expects_a_status(self) -> None:
        """A path that is answered with the status is ready."""
        web = Container(
            image="postgres", command=["perl", "-e", WEB], ports=[8080], probe=Http("/health")
        )
        self.assert_passes(class_with(web))

    def test_http_tells_the_status_that_came_instead(self) -> None:
        """The last answer is in the error."""
        web = Container(
            image="postgres",
            command=["perl", "-e", WEB],
            ports=[8080],
            probe=Http("/elsewhere"),
            startup_timeout=2,
        )
        self.assert_error(class_with(web), "status 404 instead of 200")

    def test_exec_runs_in_the_container(self) -> None:
        """A command that exits with 0 is ready."""
        self.assert_passes(class_with(redis_with(Exec(["redis-cli", "ping"]))))

    def test_exec_shows_its_command_but_no_arguments(self) -> None:
        """Arguments may hold passwords."""
        service = Container(
            image="redis", ports=[6379], probe=Exec(["false", "hush-hush"]), startup_timeout=0.5
        )
        text = self.assert_error(class_with(service), "Exec(false, 1 arguments)", "exit code 1")
        self.assertNotIn("hush-hush", text)

    def test_exec_that_hangs_is_bounded_by_startup_timeout(self) -> None:
        """A command that says nothing for ever ends in the ordinary error, which names it."""
        before = threading.active_count()
        hung = Container(image="redis", probe=Exec(["sleep", "600"]), startup_timeout=0.5)
        self.assert_error(class_with(hung), "Exec(sleep, 1 arguments)", "still runs")
        deadline = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertLessEqual(threading.active_count(), before)  # it went with its container

    def test_log_line_counts_matching_lines(self) -> None:
        """A pattern can be asked for more than once."""
        twice = Container(
            image="redis",
            command=["sh", "-c", "echo up; sleep 0.3; echo up; sleep 60"],
            probe=LogLine(r"^up$", times=2),
        )
        self.assert_passes(class_with(twice))

    def test_log_line_tells_how_many_lines_came(self) -> None:
        """The error counts."""
        once = Container(
            image="redis",
            command=["sh", "-c", "echo up; sleep 60"],
            probe=LogLine("up", times=2),
            startup_timeout=0.5,
        )
        self.assert_error(class_with(once), "1 of 2 log lines match")

    def test_healthcheck_needs_an_image_that_has_one(self) -> None:
        """An image without a healthcheck is told."""
        service = Container(image="redis", ports=[6379], probe=Healthcheck(), startup_timeout=0.5)
        self.assert_error(class_with(service), "DeclarationError", "no HEALTHCHECK")

    def test_call_asks_a_function_of_the_service(self) -> None:
        """The function gets the service, ports and all."""
        ports: list[int] = []

        def ready(service: Container) -> bool:
            ports.append(service.port_of(6379))
            return len(ports) > 2

        self.assert_passes(class_with(redis_with(Call(ready))))
        self.assertEqual(3, len(ports))

    def test_call_tells_what_its_function_raised(self) -> None:
        """The last exception is the reason, and the cause."""

        def broken(_: Container) -> None:
            raise LookupError("no table yet")

        service = Container(image="redis", ports=[6379], probe=Call(broken), startup_timeout=0.5)
        self.assert_error(class_with(service), "no table yet", "LookupError")

    def test_all_needs_every_probe(self) -> None:
        """The one that fails is told."""
        both = All(Tcp(), Exec(["false"]))
        service = Container(image="redis", ports=[6379], probe=both, startup_timeout=0.5)
        self.assert_error(class_with(service), "exit code 1")

    def test_a_container_without_ports_is_ready_when_it_runs(self) -> None:
        """A worker that listens nowhere needs no probe."""
        self.assert_passes(class_with(Container(image="redis", command=["sleep", "60"])))

    def test_a_worker_that_fails_at_once_is_told(self) -> None:
        """Without a probe, too, an exit code that is not 0 is an error."""
        worker = Container(
            image="redis", command=["sh", "-c", "exit 4"], probe=LogLine("never comes")
        )
        self.assert_error(class_with(worker), "exited with exit code 4")

    def test_a_service_removed_by_somebody_else_is_told(self) -> None:
        """A container that vanishes while it starts is not waited for."""

        def remove(service: Container) -> bool:
            service.running.engine.remove_container(service.running.container)
            return False

        self.assert_error(class_with(redis_with(Call(remove))), "removed by somebody else")


class DependsOnTest(LeakCheckedTestCase):
    """depends_on orders the start; the rest starts side by side."""

    def test_a_service_starts_after_those_it_depends_on(self) -> None:
        """The dependent's container is created when the other is ready."""
        order: list[str] = []

        def note(service: Container) -> None:
            order.append(service.alias)

        class Ordered(ServicesMixin, unittest.TestCase):
            last = Container(
                image="redis", ports=[6379], probe=Call(note), depends_on=["first", "second"]
            )
            first = Container(image="redis", ports=[6379], probe=All(Tcp(), Call(note)))
            second = Container(
                image="redis", ports=[6379], probe=All(Tcp(), Call(note)), depends_on=[first]
            )

            def test_it(self) -> None: ...

        self.assert_passes(Ordered)
        self.assertEqual(["first", "second", "last"], order)

    def test_a_failed_dependency_is_the_error(self) -> None:
        """The dependent is not started, and the first failure is told."""

        class Broken(ServicesMixin, unittest.TestCase):
            base = Redis(command=["sh", "-c", "exit 5"])
            app = Redis(depends_on=[base])

            def test_it(self) -> None: ...

        self.assert_error(Broken, "base exited with exit code 5")
