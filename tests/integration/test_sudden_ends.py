"""A process that is killed while it builds or slows: nothing of that is left."""

from __future__ import annotations

import subprocess
import uuid

from tests.support.processes import ProcessTestCase


def processes() -> str:
    """The command lines of all processes of this machine."""
    done = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    return done.stdout


class SuddenEndTest(ProcessTestCase):
    """SIGKILL, at the worst moment."""

    def kill_when(self, text: str, source: str) -> None:
        """Run a test file, wait for a process with this command line, and kill the test's."""
        self.write("test_it.py", source)
        running = self.start("-m", "unittest", "test_it")
        self.await_that(lambda: text in processes(), lambda: f"{text} never ran")
        running.kill()
        self.finish(running)
        self.await_nothing_left()
        self.await_that(lambda: text not in processes(), lambda: f"{text} still runs")

    def test_a_build_is_given_up(self) -> None:
        """The builder's own container goes too, though it has no label."""
        word = f"sleep 86{uuid.uuid4().int % 10**6}"
        self.write("Dockerfile", f"FROM redis\nRUN {word}\n")
        self.kill_when(
            word,
            """
            import unittest
            from orchestrator import Container, ServicesMixin

            class BuildTest(ServicesMixin, unittest.TestCase):
                box = Container(build=".")
                def test_it(self): pass
            """,
        )

    def test_the_helper_of_slowed_goes(self) -> None:
        """It is labelled like everything else."""
        latency = f"0.0{uuid.uuid4().int % 10**9}1"
        self.kill_when(
            f"/slow_link.py {latency}",
            f"""
            import time, unittest
            from orchestrator import Redis, ServicesMixin

            class SlowTest(ServicesMixin, unittest.TestCase):
                cache = Redis()
                def test_it(self):
                    with self.cache.slowed(latency={latency}):
                        time.sleep(60)
            """,
        )
