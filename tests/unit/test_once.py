"""What handles make when first asked: once, whoever asks; and locks that survive a fork."""

import contextlib
import os
import signal
import sys
import threading
import unittest
import unittest.mock
import warnings
from concurrent import futures
from typing import Any

from orchestrator import Postgres, Services
from orchestrator.errors import MissingDriverError
from orchestrator.services.once import ProcessLock, locked_property
from orchestrator.services.postgres import setup


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


class OnceTest(unittest.TestCase):
    """A property that is made by one thread; drivers that are missing."""

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
            unittest.mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, words),
        ):
            Shop().__enter__()

    def test_alembic_is_installed_by_its_own_name(self) -> None:
        """No extra brings it: only whoever has migrations of that kind needs it."""
        gone: dict[str, Any] = {"alembic": None, "alembic.command": None}
        config = unittest.mock.MagicMock(attributes={})
        handle = unittest.mock.MagicMock(migrate=config)
        with (
            unittest.mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, "Run: pip install alembic$"),
        ):
            setup.migrate(handle, key=lambda _: None)
