"""What handles make when first asked: once, whoever asks; and locks that survive a fork."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import unittest
import warnings
from concurrent import futures

from orchestrator.services.once import ProcessLock, locked_property


class Handle:
    """Makes its client when that is first read."""

    def __init__(self) -> None:
        self.makers = 0
        self.makes = threading.Event()
        self.go_on = threading.Event()
        self.crowd = threading.Barrier(2)

    @locked_property
    def client(self) -> object:
        """A client, unless two threads make it at the same moment."""
        self.makers += 1
        with contextlib.suppress(threading.BrokenBarrierError):
            self.crowd.wait(0.2)  # whoever else makes one is here by then
        return object()

    @locked_property
    def slow(self) -> str:
        """What takes until somebody says go on."""
        self.makes.set()
        self.go_on.wait(10)
        return "made"


class OnceTest(unittest.TestCase):
    """A property that is made by one thread, and kept."""

    def test_two_threads_at_the_same_moment_get_the_same(self) -> None:
        """The second waits for the first."""
        handle = Handle()
        with futures.ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: handle.client, range(2))
        self.assertIs(first, second)
        self.assertEqual(1, handle.makers)

    def test_nobody_waits_for_another_handle(self) -> None:
        """A server that is slow to answer stops its own users only."""
        slow, other = Handle(), Handle()
        other.go_on.set()
        with futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: slow.slow)
            slow.makes.wait(10)
            self.assertEqual("made", other.slow)
            self.assertFalse(waiting.done())
            slow.go_on.set()
            self.assertEqual("made", waiting.result())

    def test_what_failed_is_made_anew(self) -> None:
        """An error is not kept."""
        tries: list[int] = []

        class Flaky:
            @locked_property
            def client(self) -> str:
                tries.append(1)
                if len(tries) == 1:
                    raise LookupError
                return "made"

        handle = Flaky()
        with self.assertRaises(LookupError):
            _ = handle.client
        self.assertEqual("made", handle.client)


@unittest.skipUnless(hasattr(os, "fork"), "no fork here")
class ProcessLockTest(unittest.TestCase):
    """A child never waits for a thread that was left in its parent."""

    def assert_ends_well(self, child: int) -> None:
        """Wait for a child, and expect that it has said so."""
        _, status = os.waitpid(child, 0)
        self.assertEqual(0, os.waitstatus_to_exitcode(status))

    def fork(self) -> int:
        """Fork; a child that hangs is ended."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads are the point here
            child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
        return child

    def test_a_child_may_take_what_another_thread_held_at_the_fork(self) -> None:
        """That thread does not exist in the child, and could never let go."""
        lock, held, over = ProcessLock(), threading.Event(), threading.Event()

        def hold() -> None:
            with lock.held():
                held.set()
                over.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(over.set)
        held.wait(10)
        child = self.fork()
        if not child:
            with lock.held():
                os._exit(0)
        self.assert_ends_well(child)

    def test_a_thread_that_forks_while_it_holds_may_let_go_in_both_processes(self) -> None:
        """A migration that forks is such a one."""
        lock = ProcessLock()
        with lock.held():
            child = self.fork()
        if not child:
            with lock.held():
                os._exit(0)
        self.assert_ends_well(child)
