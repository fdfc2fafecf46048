"""What one is told about services: at the start, while they run, and when they use much."""

import functools
import logging
import os
import subprocess
import threading
import unittest
from unittest import mock

from orchestrator import Container, Redis, Services, ServicesMixin
from orchestrator.probes.waiting import exited, poll
from tests.support.classes import LeakCheckedTestCase, problems, run_class

DEADLINE = 180.0


def has_ended(box: Container) -> bool:
    """Whether its first process is over."""
    state = box.state()
    return state is not None and state.ended


def is_lost(box: Container) -> bool:
    """Whether a process in it was killed, and its script has gone on."""
    return box.exec(["ls", "/lost"]).exit_code == 0


class DiagnosisTest(LeakCheckedTestCase):
    """What is logged at the start and while they run, and what a failed test is told."""

    def test_a_line_tells_what_runs_where(self) -> None:
        """Image with digest, port, version; no password. `info` has the peak of memory."""
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

        with self.assertLogs("orchestrator.environment", "INFO") as logged:
            self.assert_passes(Told)
        [line] = [text for text in logged.output if "cache ready in" in text and "image=" in text]
        image, port, password = seen
        for part in (f"image={image}", "@sha256:", port, "server=Redis 7"):
            self.assertIn(part, line)
        self.assertNotIn(password, "\n".join(logged.output))

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
        """Lack of memory; not where another process went that way before, nor where one did it."""

        def box(then: str) -> Container:
            script = f"while ! [ -e /go ]; do sleep 0.05; done; {then}"
            return Container(image="redis", entrypoint=["sh", "-c", script], memory="16m")

        class Boxes(Services):
            starved = box("exec tail /dev/zero")
            failed = box("tail /dev/zero; exit 3")
            ours = box("tail /dev/zero; touch /lost; sleep 60")
            others = box("tail /dev/zero; touch /lost; sleep 60")

        killed = "137 after SIGKILL, which the engine was asked to send"
        lost = r"; a process in it had been killed for lack of memory \(OOM\)"
        with Boxes() as boxes:
            for each in (boxes.starved, boxes.failed, boxes.ours, boxes.others):
                each.write_file("/go", "")
            for each in (boxes.ours, boxes.others):
                self.assertTrue(poll(functools.partial(is_lost, each), timeout=DEADLINE))
            boxes.ours.kill()
            subprocess.run(
                ["docker", "kill", str(boxes.others.container_id)], check=True, capture_output=True
            )
            # Engines do not always hear from the kernel: then it is "perhaps".
            for each, told in (
                (boxes.starved, "for lack of memory"),
                (boxes.failed, f"exited with exit code 3({lost})?\\n"),
                (boxes.ours, f"exited with exit code {killed}({lost})?\\n"),
                (boxes.others, f"exited with exit code {killed}({lost})?\\n"),
            ):
                with self.subTest(each.alias):
                    poll(functools.partial(has_ended, each), timeout=DEADLINE)
                    error = exited(each, each.state())
                    self.assertRegex(str(error), told)
                    by_memory = "was killed for lack of memory (OOM)" in str(error)
                    self.assertIs(by_memory, error.oom_killed)

    def test_lines_come_while_it_runs(self) -> None:
        """Each start once, secrets masked, from a thread that ends with the class."""
        before = set(threading.enumerate())
        logged = self.enterContext(self.assertLogs("shop.cache", "INFO"))

        def await_line(text: str, *, times: int = 1) -> None:
            poll(lambda: str(logged.output).count(text) >= times, timeout=DEADLINE)
            self.assertEqual(times, str(logged.output).count(text))

        class Restarts(ServicesMixin, unittest.TestCase):
            cache = Redis(password="sesame-1001", log_to=logging.getLogger("shop.cache"))

            def test_it(self) -> None:
                ready = "Ready to accept connections"
                await_line(ready)
                self.cache.client.eval("redis.log(redis.LOG_WARNING, 'open sesame-1001 now')", 0)
                await_line("open *** now")
                self.cache.kill()
                self.cache.restart()
                await_line(ready, times=2)
                names = {thread.name for thread in threading.enumerate()}
                self.assertIn("orchestrator-log-cache", names)

        self.assert_passes(Restarts)
        lines = [record.getMessage() for record in logged.records]
        self.assertEqual([], [line for line in lines if not line.startswith("cache: ")])
        self.assertNotIn("sesame", "\n".join(lines))
        self.assertEqual(set(), set(threading.enumerate()) - before)
