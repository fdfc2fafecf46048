"""Probes, against sockets of this process."""

from __future__ import annotations

import socket
import threading
import unittest
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DeclarationError, ServiceNotReadyError
from orchestrator.probes import All, Call, Exec, Http, LogLine, NotReadyError, Tcp
from orchestrator.probes.waiting import poll, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator


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


class PollTest(unittest.TestCase):
    """The one loop with a deadline."""

    def test_the_first_answer_that_is_true_ends_it(self) -> None:
        """Answers that are false, and errors that are to be retried, are asked again."""
        answers: Iterator[int | KeyError] = iter([0, KeyError("not yet"), 0, 7, 8])

        def ask() -> int:
            answer = next(answers)
            if isinstance(answer, KeyError):
                raise answer
            return answer

        def retry(error: BaseException) -> bool:
            return isinstance(error, KeyError)

        self.assertEqual(7, poll(ask, timeout=60, interval=0, retry_on=retry))

    def test_after_the_deadline_the_last_answer_or_error_counts(self) -> None:
        """It is asked once at least."""
        self.assertEqual("", poll(str, timeout=0))
        with self.assertRaises(StopIteration):
            poll(lambda: next(iter(())), timeout=0, retry_on=lambda _: True)

    def test_another_error_ends_it_at_once(self) -> None:
        """Only what means "not yet" is retried."""
        tries: list[int] = []
        with self.assertRaises(AttributeError):
            poll(lambda: tries.append(1) or tries.missing, timeout=60)  # type: ignore[attr-defined, func-returns-value]
        self.assertEqual([1], tries)


class HopelessProbeTest(unittest.TestCase):
    """What time cannot mend is told at once."""

    def test_a_probe_that_is_declared_wrong_is_tried_once(self) -> None:
        """Its own error is raised, not the deadline's."""
        tries = []

        def wrong(target: Any) -> None:
            tries.append(target)
            raise DeclarationError("no such port")

        state = SimpleNamespace(ended=False)
        target: Any = SimpleNamespace(alias="web", state=lambda: state, logs=lambda **_: "")
        with self.assertRaisesRegex(DeclarationError, "no such port"):
            wait_until_ready(Call(wrong), target, timeout=60)
        self.assertEqual(1, len(tries))


class WrongProbeTest(unittest.TestCase):
    """A probe that cannot work is told when it is made, not when its deadline has passed."""

    def test_each_kind_checks_what_it_is_given(self) -> None:
        """The error has the value and what was expected."""
        make: Any
        for make, words in (
            (lambda: Exec("redis-cli ping"), "Exec.'redis-cli ping'.*a list of arguments"),
            (lambda: Exec([]), "Exec.*a list of arguments"),
            (lambda: Exec(["kill", 1]), "Exec.*a list of arguments"),  # type: ignore[list-item]
            (lambda: LogLine("ready ("), "LogLine.*no regular expression"),
            (lambda: LogLine("ready", times=0), "LogLine.times=0.*a count"),
            (lambda: Http("http://localhost/health"), "Http.*a path"),
            (lambda: Http(status="ok"), "Http.status='ok'"),  # type: ignore[arg-type]
            (lambda: Http(timeout=0), "Http.timeout=0.*seconds"),
            (lambda: Http(timeout="5"), "Http.timeout='5'"),  # type: ignore[arg-type]
            (lambda: Call(42), "Call.42.*a function"),  # type: ignore[arg-type]
            (lambda: All(Tcp), "All.*expected probes such as"),  # type: ignore[arg-type]
            (All, "All.*expected probes such as"),
        ):
            with self.subTest(words), self.assertRaisesRegex(DeclarationError, words):
                make()


class HungProbeTest(unittest.TestCase):
    """A probe that never comes back is bounded by the deadline, too."""

    def setUp(self) -> None:
        """Have a target that runs, and something to hang on until the test is over."""
        self.released = threading.Event()
        self.addCleanup(self.released.set)
        state = SimpleNamespace(ended=False)
        self.target: Any = SimpleNamespace(alias="web", state=lambda: state, logs=lambda **_: "")

    def hang(self, _: Any) -> None:
        """Come back when the test is over."""
        self.released.wait(60)

    def test_a_function_that_hangs_is_left_behind(self) -> None:
        """Its error is the deadline's, and says that the function still runs."""
        with self.assertRaisesRegex(ServiceNotReadyError, "hang.*still runs"):
            wait_until_ready(Call(self.hang), self.target, timeout=0.1)
        self.assertFalse(self.released.is_set())

    def test_nobody_waits_for_a_hung_probe_whose_class_has_failed(self) -> None:
        """Another service's failure is told at once."""
        hangs = threading.Event()

        def hang(_: Any) -> None:
            hangs.set()
            self.released.wait(60)

        wait_until_ready(Call(hang), self.target, timeout=60, cancelled=hangs.is_set)
        self.assertFalse(self.released.is_set())
