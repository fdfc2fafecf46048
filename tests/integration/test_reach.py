"""Systems that lack what Linux has; daemons and processes in other places; what is taken."""

import ipaddress
import itertools
import re
import signal
import socket
import subprocess
import unittest
import unittest.mock
import uuid
from concurrent import futures
from pathlib import Path

from orchestrator import Redis, ServicesMixin
from orchestrator.engine import Endpoint, connect, find_endpoint
from orchestrator.environment import launch
from orchestrator.environment.context import create_private_network, free_port
from orchestrator.errors import EngineError
from orchestrator.settings import SUBNETS, Settings
from tests.faults.private_daemon import PrivateDaemon
from tests.faults.proxy import Proxy
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import DEADLINE, ProcessTestCase, python_beside_the_daemon

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
README_BLOCK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
URLS = """
    def test_urls(self):
        import psycopg, redis

        with redis.Redis.from_url(self.cache.url) as client:
            self.assertTrue(client.ping())
        with psycopg.connect(self.db.dsn) as connection:
            self.assertEqual("::1", connection.info.hostaddr)
"""
USES = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class UsesTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            self.assertTrue(self.cache.client.ping())
            print("reached at", self.cache.host)
"""


@unittest.skipUnless(find_endpoint().socket, "the daemon is not on this machine's socket")
class ReachTest(ProcessTestCase):
    """`host` and `port` connect wherever daemon and test process are."""

    def test_the_readmes_example_runs_also_over_ipv6(self) -> None:
        """DOCKER_HOST and ORCHESTRATOR_HOST may be IPv6 addresses; URLs have them in brackets."""
        self.write("test_readme.py", README_BLOCK + URLS)
        with Proxy(find_endpoint().url, tcp="::1") as proxy:
            self.environ |= {"DOCKER_HOST": proxy.url, "ORCHESTRATOR_HOST": "[::1]"}
            argv = ("-W", "error", "-m", "unittest", "-v", "test_readme")
            status, output = self.run_python(*argv)
            self.await_nothing_left()
        self.assertEqual(0, status, output)
        self.assertIn("Ran 2 tests", output)

    def test_a_published_port_that_is_out_of_reach_is_told_within_seconds(self) -> None:
        """Not at the deadline: where the daemon's ports are, only the user knows."""
        self.environ["ORCHESTRATOR_HOST"] = "127.0.0.2"  # ports are on 127.0.0.1
        status, output = self.run_python("-c", "from orchestrator import *; Redis().__enter__()")
        self.assertEqual(1, status, output)
        self.assertRegex(output, r"did not succeed in \d?\d\.\d s .* listens on port 6379 in its")
        self.assertIn("ORCHESTRATOR_HOST=127.0.0.2 may not be its machine", output)

    def test_a_test_process_in_a_container_beside_the_daemon_reaches_its_services(self) -> None:
        """Inside a container, with the daemon's socket mounted, ports are on the bridge."""
        self.write("test_uses.py", USES)
        name = f"orchestrator-test-{uuid.uuid4().hex[:12]}"
        self.addCleanup(
            subprocess.run, ["docker", "rm", "--force", name], capture_output=True, check=False
        )
        argv = ("-m", "unittest", "test_uses")
        ran = subprocess.run(
            python_beside_the_daemon(*argv, folder=self.folder, run=self.run_id, name=name),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual(0, ran.returncode, ran.stdout + ran.stderr)
        self.assertNotIn("reached at 127.0.0.1", ran.stdout)
        self.assertIn("reached at ", ran.stdout)


class TakenPortTest(LeakCheckedTestCase):
    """Another process took the chosen port between our look and the container's start."""

    def test_another_one_is_chosen_so_many_times(self) -> None:
        """Then the daemon's own words name the port."""
        taken = self.enterContext(socket.create_server(("127.0.0.1", 0))).getsockname()[1]

        class Contended(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.assertTrue(self.cache.client.ping())

        ports = [taken, free_port("127.0.0.1")]
        with unittest.mock.patch.object(launch, "free_port", side_effect=ports):
            self.assert_passes(Contended)
        with unittest.mock.patch.object(launch, "free_port", return_value=taken):
            self.assert_error(Contended, "EngineError", str(taken))


class ManyNetworksTest(unittest.TestCase):
    """Docker's own pools end at about thirty networks; here, on a daemon of our own, at three."""

    def setUp(self) -> None:
        """Have a daemon with little room."""
        pool = "--default-address-pool=base=10.77.0.0/26,size=28"
        daemon = PrivateDaemon(options=(pool, "--bip=10.78.0.1/24"))
        self.addCleanup(daemon.close)
        endpoint = Endpoint(url=daemon.start().url)
        self.engine = connect(Settings.from_environment(), endpoint=endpoint)
        self.addCleanup(self.engine.close)

    def create(self, pool: ipaddress.IPv4Network) -> None:
        """Create one more network."""
        name = f"many-{uuid.uuid4().hex[:12]}"
        create_private_network(self.engine, name, labels={}, pool=pool)

    def test_more_classes_than_docker_has_networks_for(self) -> None:
        """Those that start at once do not overlap; when both pools are used up, it is told how."""
        with futures.ThreadPoolExecutor(8) as workers:
            list(workers.map(self.create, [SUBNETS] * 16))
        subnets = [ipaddress.IPv4Network(subnet) for subnet in self.engine.subnets()]
        self.assertGreaterEqual(len(subnets), 16)
        overlapping = [
            pair for pair in itertools.combinations(subnets, 2) if pair[0].overlaps(pair[1])
        ]
        self.assertEqual([], overlapping)
        narrow = ipaddress.IPv4Network("10.231.7.0/26")
        for _ in range(2):
            self.create(narrow)
        with self.assertRaisesRegex(EngineError, r"10\.231\.7\.0/26.*ORCHESTRATOR_SUBNETS"):
            self.create(narrow)


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
