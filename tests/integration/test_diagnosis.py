"""What one is told about services: at the start, while they run, and when they use much."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import unittest
from unittest import mock

from orchestrator import Container, Redis, Services, ServicesMixin
from orchestrator.probes.waiting import exited, poll
from tests.support.classes import LeakCheckedTestCase, problems, run_class

DEADLINE = 180.0


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
        deadline = time.monotonic() + DEADLINE
        while sum(text in line for line in self.texts) < times:
            if time.monotonic() > deadline:
                raise AssertionError(self.texts)
            time.sleep(0.01)


def has_ended(service: Container) -> bool:
    """Whether its container has."""
    state = service.state()
    return state is not None and state.ended


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


class ToldTest(LeakCheckedTestCase):
    """What is logged at the start, and what `info` has."""

    def test_a_line_tells_what_runs_where(self) -> None:
        """Image with digest, port, version; no password. `info` has the peak of memory."""
        lines = listen(self, "orchestrator.environment")
        seen: list[str] = []

        class Told(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def peak(self) -> int:
                return int(str(self.cache.info()["peak_memory"]))

            def test_it(self) -> None:
                seen.extend([str(self.cache.image), str(self.cache.port), str(self.cache.password)])
                self.assertLess(self.peak(), 50_000_000)
                self.cache.exec(["perl", "-e", "my $x = 'a' x 50_000_000"])
                self.assertGreater(self.peak(), 50_000_000)  # though it was given back

        self.assert_passes(Told)
        [line] = [text for text in lines.texts if "cache ready in" in text and "image=" in text]
        image, port, password = seen
        for part in (f"image={image}", "@sha256:", port, "server=Redis 7"):
            self.assertIn(part, line)
        self.assertNotIn(password, "\n".join(lines.texts))


class NoteTest(LeakCheckedTestCase):
    """The note of a failed test."""

    def test_it_is_short(self) -> None:
        """A line a service, then what it has logged since; nothing twice; it can be left out."""

        class Fails(ServicesMixin, unittest.TestCase):
            quiet = Redis()
            cache = Redis()

            def test_0(self) -> None:
                raise SystemExit("the program under test")

            def test_1(self) -> None:
                for number in (1, 2, 3):
                    with self.subTest(number=number):
                        if number < 3:
                            text = f"redis.log(redis.LOG_WARNING, 'line {number}')"
                            self.cache.client.eval(text, 0)
                            while f"line {number}" not in self.cache.logs():
                                pass  # the daemon has it a moment later
                        self.fail("on purpose")

            def test_2(self) -> None:
                self.enterClassContext(mock.patch.dict(os.environ, ORCHESTRATOR_LOG_LINES="0"))
                self.fail("on purpose")

        ran = run_class(Fails)
        first, second, *others = (text for _, text in ran.failures)
        server = r"Redis 7[\d.]+ at 127\.0\.0\.1:\d+\n"
        self.assertRegex(first, rf"test:\nquiet: {server}cache: {server}    .*line 1\n\Z")
        self.assertRegex(second, rf"test:\ncache: {server}    .*line 2\n\Z")
        self.assertIn("Services during this test:", ran.errors[0][1])
        self.assertEqual(["AssertionError: on purpose"] * 2, [it.split("\n")[-2] for it in others])


class ContainerProblemTest(LeakCheckedTestCase):
    """A failed test is told how its services' containers ended."""

    def test_what_a_server_met_with(self) -> None:
        """Its end, also for the next test, its last lines once; a process lost to OOM."""

        class Ended(ServicesMixin, unittest.TestCase):
            cache = Redis()
            box = Container(image="redis", entrypoint=["sleep", "60"], memory="16m")

            def test_1(self) -> None:
                self.cache.kill()
                self.box.exec(["tail", "/dev/zero"])
                self.fail("on purpose")

            def test_2(self) -> None:
                self.fail("there is no server")

        told = problems(run_class(Ended))
        self.assertIn("on purpose", told)
        ended = "exited with exit code 137 after SIGKILL, which the engine was asked to send"
        self.assertIn(f"cache {ended}: no answer", told)
        self.assertRegex(told, rf"ServiceExitedError: cache: .*redis:7-\w+ {ended}\n")
        self.assertEqual(1, told.count("Last log lines of cache"))
        self.assertNotIn("redis.exceptions", told, "what its driver says of it is no news")
        self.assertIn("box has lost a process for lack of memory (OOM): 127.0.0.1", told)

    def test_who_killed_it(self) -> None:
        """Lack of memory; not where another process went that way before, nor where we did it."""

        def box(then: str) -> Container:
            script = f"while ! [ -e /go ]; do sleep 0.05; done; {then}"
            return Container(image="redis", entrypoint=["sh", "-c", script], memory="16m")

        class Boxes(Services):
            starved = box("exec tail /dev/zero")
            failed = box("tail /dev/zero; exit 3")
            killed = box("tail /dev/zero; touch /lost; sleep 60")

        killed = "137 after SIGKILL, which the engine was asked to send"
        lost = r"; a process in it had been killed for lack of memory \(OOM\)"
        with Boxes() as boxes:
            for each in (boxes.starved, boxes.failed, boxes.killed):
                each.write_file("/go", "")
            self.assertTrue(
                poll(lambda: boxes.killed.exec(["ls", "/lost"]).exit_code == 0, timeout=DEADLINE)
            )
            boxes.killed.kill()
            # Engines do not always hear from the kernel: then it is "perhaps".
            for each, told in (
                (boxes.starved, "for lack of memory"),
                (boxes.failed, f"exited with exit code 3({lost})?\\n"),
                (boxes.killed, f"exited with exit code {killed}({lost})?\\n"),
            ):
                with self.subTest(each.alias):
                    poll(functools.partial(has_ended, each), timeout=DEADLINE)
                    error = exited(each, each.state())
                    self.assertRegex(str(error), told)
                    by_memory = "was killed for lack of memory (OOM)" in str(error)
                    self.assertIs(by_memory, error.oom_killed)


class LogToTest(LeakCheckedTestCase):
    """``log_to``: the container's log in the test's own logging."""

    def test_lines_come_while_it_runs(self) -> None:
        """Each start once, secrets masked, from a thread that ends with the class."""
        lines = listen(self, "shop.cache")
        before = set(threading.enumerate())

        class Restarts(ServicesMixin, unittest.TestCase):
            cache = Redis(password="sesame-1001", log_to=logging.getLogger("shop.cache"))

            def test_it(self) -> None:
                ready = "Ready to accept connections"
                lines.await_text(ready)
                self.cache.client.eval("redis.log(redis.LOG_WARNING, 'open sesame-1001 now')", 0)
                lines.await_text("open *** now")
                self.cache.kill()
                self.cache.restart()
                lines.await_text(ready, times=2)
                self.assertEqual(2, sum(ready in line for line in lines.texts))
                names = {thread.name for thread in threading.enumerate()}
                self.assertIn("orchestrator-log-cache", names)

        self.assert_passes(Restarts)
        self.assertTrue(all(line.startswith("cache: ") for line in lines.texts), lines.texts)
        self.assertNotIn("sesame", "\n".join(lines.texts))
        self.assertEqual(set(), set(threading.enumerate()) - before)

    def test_what_it_says_is_harmless_on_a_terminal(self) -> None:
        """In the test's logging and in a failure's note; `logs` has it exactly."""
        lines = listen(self, "shop.box")
        said = r"\033[2J\033[32mgreen\033[0m\rover\033]0;title\a"
        shown = "\\x1b[2J\x1b[32mgreen\x1b[0m\\rover\\x1b]0;title\\x07"

        class Says(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=["sleep", "60"], log_to="shop.box")

            def test_it(self) -> None:
                self.box.exec(["sh", "-c", f"printf '{said}\n' > /proc/1/fd/1"])
                lines.await_text(f"box: {shown}")
                self.assertIn("\x1b[2J\x1b[32mgreen", self.box.logs())
                self.fail("to see the note")

        text = problems(run_class(Says))
        self.assertIn(shown, text)
        self.assertNotIn("\x1b[2J", text)

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

            def test_it(self) -> None: ...

        self.assert_error(Dies, "exit code 3")
        self.assertIn("box: my last words", lines.texts)
