"""Systems that lack what Linux has: the same code, in a Python from which that is taken away."""

import signal

from tests.support.processes import ProcessTestCase

# What macOS has not, in every Python that is started but the watchdog's.
_LIKE_MACOS = """
    import os, select, signal, socket, time

    for module, names in (
        (os, ("pidfd_open", "sched_getaffinity", "memfd_create")),
        (signal, ("pidfd_send_signal", "SIGRTMAX", "SIGRTMIN")),
        (socket, ("SO_PEERCRED", "MSG_NOSIGNAL")),
        (time, ("CLOCK_BOOTTIME",)),
        (select, ("epoll",)),
    ):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
"""
_CLASSES = """
    import os, unittest
    from orchestrator import Redis, ServicesMixin

    class OwnTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            self.assertFalse(hasattr(os, "pidfd_open"))
            self.assertTrue(self.cache.client.ping())

    class SharedTest(OwnTest):
        cache = Redis(scope="run")
"""


class OtherSystemsTest(ProcessTestCase):
    """macOS, and Windows."""

    def be_like_macos(self) -> None:
        """Have every Python in the folder lack what macOS lacks."""
        self.write("sitecustomize.py", _LIKE_MACOS)
        self.environ["PYTHONPATH"] = str(self.folder)

    def test_the_runner_works_without_what_only_linux_has(self) -> None:
        """Classes in parallel, and a server that they share."""
        self.be_like_macos()
        self.write("test_two.py", _CLASSES)
        status, output = self.run_python("-m", "orchestrator", "test", "-j", "2", "test_two.py")
        self.assertEqual(0, status, output)

    def test_what_a_killed_process_had_is_removed_without_pidfd(self) -> None:
        """The watchdog hears of it by its socket alone."""
        self.be_like_macos()
        self.write(
            "owner.py",
            """
            import os, signal
            from orchestrator import Redis

            print(Redis().__enter__().client.ping(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
        )
        self.assertEqual((-signal.SIGKILL, "True\n"), self.run_python("owner.py"))
        self.await_nothing_left()

    def test_windows_is_told_to_use_linux(self) -> None:
        """By whatever is imported first; no ImportError of a module that Windows lacks."""
        for code in ("from orchestrator import Redis", "import orchestrator.cli"):
            with self.subTest(code):
                status, output = self.run_python("-c", f"import os; del os.fork; {code}")
                self.assertEqual(1, status, output)
                self.assertRegex(output, "OrchestratorError: .* needs Linux .* WSL 2")
