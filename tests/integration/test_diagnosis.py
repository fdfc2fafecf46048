"""What one is told about services: at the start, while they run, and when they use much."""

from __future__ import annotations

import logging
import threading
import time
import unittest
from typing import TYPE_CHECKING

from orchestrator import Container, Postgres, Redis, ServicesMixin
from tests.support.classes import LeakCheckedTestCase, problems, run_class

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT = "orchestrator.environment"
DEADLINE = 30.0


class Lines(logging.Handler):
    """Keeps what a logger was given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.texts.append(record.getMessage())

    def await_text(self, text: str, *, times: int = 1) -> None:
        """Return when a line with the text has come so many times."""
        await_that(lambda: sum(text in line for line in self.texts) >= times, self.texts)


def await_that(condition: Callable[[], bool], seen: object) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(seen)
        time.sleep(0.01)


def listen(test: unittest.TestCase, name: str) -> Lines:
    """Listen to a logger for one test."""
    logger, lines = logging.getLogger(name), Lines()
    before = logger.level, logger.propagate
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    def undo() -> None:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before

    test.addCleanup(undo)
    return lines


class StartLineTest(LeakCheckedTestCase):
    """One line of the log for each service that has started."""

    def test_a_line_tells_what_runs_where(self) -> None:
        """Image with digest, port, version; and no password."""
        lines = listen(self, ENVIRONMENT)
        seen: list[str] = []

        class Told(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                seen.extend([str(self.cache.image), str(self.cache.port), str(self.cache.password)])

        self.assert_passes(Told)
        [line] = [text for text in lines.texts if "cache ready in" in text and "image=" in text]
        image, port, password = seen
        for part in (f"image={image}", port, "server=Redis 7"):
            self.assertIn(part, line)
        self.assertIn("@sha256:", line)
        self.assertNotIn(password, "\n".join(lines.texts))

    def test_nobody_is_asked_when_nobody_listens(self) -> None:
        """A logger that is off costs no question to the server."""
        logger = logging.getLogger(ENVIRONMENT)
        self.addCleanup(logger.setLevel, logger.level)
        asked: dict[int, int] = {}

        class Quiet(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                commands = self.cache.client.info("commandstats")
                asked[logger.level] = commands.get("cmdstat_info", {"calls": 0})["calls"]

        for level in (logging.WARNING, logging.INFO):
            logger.setLevel(level)
            self.assert_passes(Quiet)
        self.assertLess(asked[logging.WARNING], asked[logging.INFO])


class FrozenServerTest(LeakCheckedTestCase):
    """A server that says nothing does not hold up the one who tells about it."""

    def test_a_failure_is_told_although_the_server_is_frozen(self) -> None:
        """Its drivers would wait for ever; the test's own failure is what counts."""

        class Frozen(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                running = self.cache.running
                running.engine.kill_container(running.container, signal="SIGSTOP")
                self.fail("the test's own failure")

        # The second report: a server that does not answer cannot be cleaned either.
        told = ("the test's own failure", "cache: no answer within", "Was it frozen (SIGSTOP")
        self.assert_error(Frozen, *told, reports=2)


class PeakMemoryTest(LeakCheckedTestCase):
    """`info` has the most memory a container ever used."""

    def test_the_peak_stays_when_the_memory_is_given_back(self) -> None:
        """A use of 50 MB is seen after it has ended."""

        class Peak(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=["sleep", "60"])

            def test_it(self) -> None:
                self.assertLess(self.peak(), 50_000_000)
                self.box.exec(["perl", "-e", "my $x = 'a' x 50_000_000"])
                self.assertGreater(self.peak(), 50_000_000)

            def peak(self) -> int:
                value = self.box.info()["peak_memory"]
                assert isinstance(value, int)
                return value

        self.assert_passes(Peak)

    def test_a_dead_container_has_none(self) -> None:
        """`info` of a container that has ended says the rest."""

        class Dead(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=["sleep", "60"])

            def test_it(self) -> None:
                self.box.kill()
                info = self.box.info()
                self.assertNotIn("peak_memory", info)
                self.assertIn("image", info)

        self.assert_passes(Dead)


class MisfortuneTest(LeakCheckedTestCase):
    """A failed test is told what befell its services."""

    def test_a_server_that_ended_during_the_test(self) -> None:
        """With its exit code."""

        class Ended(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.cache.kill()
                self.fail("on purpose")

        self.assert_error(Ended, "on purpose", "cache exited with exit code 137: no answer")

    def test_a_server_that_an_earlier_test_ended(self) -> None:
        """Its last lines are told once, and what it said of a connection is not the reason."""

        class Ended(ServicesMixin, unittest.TestCase):
            db = Postgres()

            def test_1(self) -> None:
                self.db.connect()
                self.db.restart()
                self.db.kill()

            def test_2(self) -> None:
                self.fail("there is no server")

        told = problems(run_class(Ended))
        self.assertIn("ServiceExitedError: db exited with exit code 137\n", told)
        self.assertEqual(1, told.count("Last log lines of db"))

    def test_a_server_that_lost_a_process_for_lack_of_memory(self) -> None:
        """Postgres lives on when one of its sessions wanted too much."""

        class Greedy(ServicesMixin, unittest.TestCase):
            db = Postgres(memory="128m")

            def test_it(self) -> None:
                with self.db.connect() as connection:
                    connection.execute("select length(repeat('x', 500000000))")

        self.assert_error(Greedy, "db has lost a process for lack of memory (OOM): image=")

    def test_a_server_that_ran_out_of_memory_during_the_test(self) -> None:
        """Not as a mysterious lost connection."""

        class Greedy(ServicesMixin, unittest.TestCase):
            cache = Redis(memory="16m")

            def test_it(self) -> None:
                for number in range(64):
                    self.cache.client.set(f"large:{number}", bytes(1 << 20))

        self.assert_error(
            Greedy,
            "cache was killed for lack of memory (OOM) with exit code 137: no answer",
        )


class LogToTest(LeakCheckedTestCase):
    """``log_to``: the container's log in the test's own logging."""

    def test_lines_come_while_it_runs(self) -> None:
        """From the first one on, each with the service's name."""
        lines = listen(self, "shop.box")

        class Talks(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=[
                    "sh",
                    "-c",
                    "echo first; until test -e /go; do sleep 0.1; done; echo last",
                ],
                log_to="shop.box",
            )

            def test_it(self) -> None:
                lines.await_text("box: first")
                self.assertNotIn("box: last", lines.texts)
                self.box.exec(["touch", "/go"])
                lines.await_text("box: last")

        self.assert_passes(Talks)

    def test_what_it_says_is_harmless_on_a_terminal(self) -> None:
        """In the test's logging and in a failure's note; `logs` has it exactly."""
        lines = listen(self, "shop.box")
        said = r"\033[2J\033[32mgreen\033[0m\rover\033]0;title\a"
        shown = "\\x1b[2J\x1b[32mgreen\x1b[0m\\rover\\x1b]0;title\\x07"

        class Says(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=[
                    "sh",
                    "-c",
                    f"until test -e /go; do sleep 0.1; done; printf '{said}\n'; sleep 60",
                ],
                log_to="shop.box",
            )

            def test_it(self) -> None:
                self.box.exec(["touch", "/go"])
                lines.await_text(f"box: {shown}")
                self.assertIn("\x1b[2J\x1b[32mgreen", self.box.logs())
                self.fail("to see the note")

        text = problems(run_class(Says))
        self.assertIn(shown, text)
        self.assertNotIn("\x1b[2J", text)

    def test_it_goes_on_after_a_restart_without_repeating(self) -> None:
        """Each start of the server is told once, to the end of the class."""
        lines = listen(self, "shop.cache")

        class Restarts(ServicesMixin, unittest.TestCase):
            cache = Redis(log_to=logging.getLogger("shop.cache"))

            def test_it(self) -> None:
                ready = "Ready to accept connections"
                lines.await_text(ready)
                self.cache.restart()
                lines.await_text(ready, times=2)
                self.cache.kill()
                self.cache.restart()
                lines.await_text(ready, times=3)
                self.assertEqual(3, sum(ready in line for line in lines.texts))

        self.assert_passes(Restarts)

    def test_no_thread_outlives_the_class(self) -> None:
        """Threads end with what they listen to."""
        before = set(threading.enumerate())
        listen(self, "shop.cache")

        class Threads(ServicesMixin, unittest.TestCase):
            cache = Redis(log_to="shop.cache")
            other = Redis(log_to="shop.cache")

            def test_it(self) -> None:
                names = {thread.name for thread in threading.enumerate()}
                self.assertLessEqual({"orchestrator-log-cache", "orchestrator-log-other"}, names)

        self.assert_passes(Threads)
        self.assertEqual(set(), set(threading.enumerate()) - before)

    def test_secrets_are_masked(self) -> None:
        """What a server says about its password does not get into the test's log."""
        lines = listen(self, "shop.cache")

        class Secret(ServicesMixin, unittest.TestCase):
            cache = Redis(password="sesame-1001", log_to="shop.cache")

            def test_it(self) -> None:
                self.cache.client.eval("redis.log(redis.LOG_WARNING, 'open sesame-1001 now')", 0)
                lines.await_text("open *** now")

        self.assert_passes(Secret)
        self.assertNotIn("sesame", "\n".join(lines.texts))

    def test_the_last_lines_of_a_server_that_dies_at_its_start_are_given(self) -> None:
        """They are the ones that matter."""
        lines = listen(self, "shop.box")

        class Dies(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=["sh", "-c", "echo my last words; exit 3"],
                ports=[1],
                log_to="shop.box",
            )

            def test_it(self) -> None:
                """Never reached."""

        self.assert_error(Dies, "exit code 3")
        self.assertIn("box: my last words", lines.texts)
