"""Probes, against sockets of this process."""

import itertools
import socket
import threading
import time
import unittest
from types import SimpleNamespace
from typing import Any

from orchestrator.engine.streams import read_frames, read_lines
from orchestrator.errors import DeclarationError, ServiceNotReadyError
from orchestrator.probes import All, Call, Exec, Http, LogLine, NotReadyError, Tcp
from orchestrator.probes.waiting import await_ready, poll


class TcpTest(unittest.TestCase):
    """An open port proves nothing; a connection that is kept does."""

    def setUp(self) -> None:
        """Listen as Docker's proxy does."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.target: Any = SimpleNamespace(host="127.0.0.1", port=self.listener.getsockname()[1])

    def test_a_proxy_that_hangs_up_late_is_not_taken_for_a_server(self) -> None:
        """On a busy machine the proxy finds out late that nobody listens behind it."""
        hung_up = threading.Event()

        def proxy() -> None:
            connection, _ = self.listener.accept()
            hung_up.wait(0.05)
            connection.close()

        thread = threading.Thread(target=proxy)
        thread.start()
        self.addCleanup(thread.join)
        with self.assertRaisesRegex(NotReadyError, "closed at once"):
            Tcp().check(self.target)

    def test_a_port_that_cannot_be_reached_is_told_with_where_it_was_looked_for(self) -> None:
        """A daemon may publish elsewhere than where we look, and only the user knows where."""
        self.listener.close()
        with self.assertRaisesRegex(NotReadyError, r"127\.0\.0\.1 .* ORCHESTRATOR_HOST"):
            Tcp().check(self.target)


class WaitingTest(unittest.TestCase):
    """The one loop with a deadline, lines of a log, and probes that cannot work."""

    def test_it_ends_with_a_true_answer_an_error_or_the_deadline(self) -> None:
        """What is false, or an error to be retried, is asked again; the last one counts."""
        answers = iter([0, KeyError("not yet"), 0, 7, 8])

        def ask() -> object:
            answer = next(answers)
            if isinstance(answer, KeyError):
                raise answer
            return answer

        def retry(error: BaseException) -> bool:
            return isinstance(error, KeyError)

        self.assertEqual(7, poll(ask, timeout=60, interval=0, retry_on=retry))
        self.assertEqual("", poll(str, timeout=0))
        with self.assertRaises(StopIteration):
            poll(lambda: next(iter(())), timeout=0, retry_on=lambda _: True)
        with self.assertRaises(StopIteration):
            poll(lambda: next(iter(())), timeout=60)

    def test_what_is_slow_is_asked_less(self) -> None:
        """The pause is a fiftieth of the time that it took so far, when that is more."""
        asked: list[float] = []

        def ask() -> bool:
            asked.append(time.monotonic())
            return asked[-1] - asked[0] > 1

        poll(ask, timeout=60, interval=0.001)
        self.assertGreaterEqual(asked[-1] - asked[-2], 0.019)
        self.assertLess(len(asked), 350)  # one every millisecond would be 1000

    def test_lines_are_whole_wherever_the_answer_is_cut(self) -> None:
        """Within a frame's head, a line or a character; the last one may have no end."""
        frames = [b"one\r\ntw", b"", "o\nthr\u00e9e".encode()]
        answer = b"".join(b"\1\0\0\0" + len(it).to_bytes(4, "big") + it for it in frames)
        for size in (1, 3, 7, 100):
            pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
            self.assertEqual(
                ["one", "two", "thr\u00e9e"],
                list(read_lines(text for _, text in read_frames(pieces))),
            )

    def test_a_line_without_end_is_not_kept_whole(self) -> None:
        """A program that writes dots for ever takes no memory for ever."""
        lines = list(read_lines(itertools.repeat(b"." * 65536, 100)))
        self.assertEqual(100 * 65536, sum(map(len, lines)))
        self.assertLess(max(map(len, lines)), 2_000_000)

    def test_each_kind_checks_what_it_is_given(self) -> None:
        """The error has the value and what was expected."""
        make: Any
        for make, words in (
            (lambda: Exec("redis-cli ping"), "Exec.'redis-cli ping'.*a list of arguments"),
            (lambda: LogLine("ready ("), "LogLine.*no regular expression"),
            (lambda: LogLine("ready", times=0), "LogLine.times=0.*a count"),
            (lambda: Http("http://localhost/health"), "Http.*a path"),
            (lambda: Http("/a b"), "Http.*in ASCII"),
            (lambda: Exec(None), "Exec.None"),  # type: ignore[arg-type]
            (lambda: Http(timeout="5"), "Http.timeout='5'"),  # type: ignore[arg-type]
            (lambda: Call(42), "Call.42.*a function"),  # type: ignore[arg-type]
            (lambda: All(Tcp), "All.*expected probes such as"),  # type: ignore[arg-type]
        ):
            with self.subTest(words), self.assertRaisesRegex(DeclarationError, words):
                make()


class HopelessProbeTest(unittest.TestCase):
    """What time cannot mend is told at once, and nothing is waited for beyond the deadline."""

    def setUp(self) -> None:
        """Have a container that runs."""
        state = SimpleNamespace(ended=False)
        self.target: Any = SimpleNamespace(
            alias="web", image=None, state=lambda: state, logs=lambda **_: ""
        )

    def test_a_probe_that_is_declared_wrong_is_tried_once(self) -> None:
        """Its own error is raised, not the deadline's."""
        tries = []

        def wrong(target: Any) -> None:
            tries.append(target)
            raise DeclarationError("no such port")

        self.target.readiness = lambda: Call(wrong)
        with self.assertRaisesRegex(DeclarationError, "no such port"):
            await_ready(self.target, timeout=60)
        self.assertEqual(1, len(tries))

    def test_a_function_that_hangs_is_left_behind(self) -> None:
        """At the deadline, whose error says so, or at once when another service has failed."""
        hangs, released = threading.Event(), threading.Event()
        self.addCleanup(released.set)

        def hang(_: Any) -> None:
            hangs.set()
            released.wait(60)

        self.target.readiness = lambda: Call(hang)
        with self.assertRaisesRegex(ServiceNotReadyError, "hang.*still runs"):
            await_ready(self.target, timeout=0.1)
        await_ready(self.target, timeout=60, cancelled=hangs.is_set)
        self.assertFalse(released.is_set())
