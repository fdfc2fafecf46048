"""The engine's port, held against the real daemon; and a daemon that hangs."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import unittest
import uuid
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.engine import Endpoint, connect
from orchestrator.engine.docker_client import map_errors
from orchestrator.engine.port import ContainerSpec, Engine
from orchestrator.errors import EngineError, EngineUnavailableError
from orchestrator.images import ensure_image, find_lock
from orchestrator.settings import Settings

LABEL = "dev.orchestrator.run"
# Where the kernel tells a container's memory limit: cgroups version 1, then 2.
MEMORY_LIMIT = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"


class EngineContractTest(unittest.TestCase):
    """What every engine does, shown on the real one."""

    def setUp(self) -> None:
        """Have an engine, an image and a label of our own."""
        settings = Settings.from_environment()
        self.engine: Engine = connect(settings)
        self.addCleanup(self.engine.close)
        self.labels = {LABEL: str(uuid.uuid4())}
        redis = find_lock(settings).entries["redis"]
        self.image = ensure_image(self.engine, redis, settings=settings).id
        self.addCleanup(self.remove_all)

    def remove_all(self) -> None:
        """Remove what carries our label."""
        found = sorted(self.engine.labelled(self.labels), key=lambda item: item.kind)
        for item in found:
            getattr(self.engine, f"remove_{item.kind}")(item.id)
        self.assertEqual([], list(self.engine.labelled(self.labels)))

    def run_container(self, *command: str, network: str | None = None) -> str:
        """Create and start a container."""
        spec = ContainerSpec(
            name=f"contract-{uuid.uuid4().hex[:12]}",
            image=self.image,
            labels=self.labels,
            command=command,
            network=network,
            aliases=["me"] if network else (),
        )
        container = self.engine.create_container(spec)
        self.engine.start_container(container)
        return container

    def test_a_container_is_running_until_it_is_killed(self) -> None:
        """State follows the container's life, exit code included."""
        container = self.run_container("sleep", "60")
        state = self.engine.container(container)
        assert state is not None
        self.assertTrue(state.running)
        self.engine.kill_container(container)
        self.engine.restart_container(container)
        self.engine.pause_container(container)
        self.assertEqual("paused", getattr(self.engine.container(container), "status", None))
        self.engine.unpause_container(container)
        self.assertEqual("running", getattr(self.engine.container(container), "status", None))

    def test_a_container_that_is_gone_is_none(self) -> None:
        """Looking for what is not there is no error."""
        self.assertIsNone(self.engine.container("no-such-container"))

    def test_removals_of_what_is_not_there_succeed(self) -> None:
        """Several reapers may be at work at once."""
        self.engine.remove_container("no-such-container")
        self.engine.remove_network("no-such-network")
        self.engine.remove_volume("no-such-volume")
        self.engine.remove_image("no-such-image:at-all")

    def test_two_removals_at_once_both_succeed(self) -> None:
        """The one that comes second waits until it is gone."""
        container = self.run_container("sleep", "60")
        with futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(self.engine.remove_container, [container] * 4))
        self.assertIsNone(self.engine.container(container))

    def test_a_networks_removal_disconnects_foreign_endpoints(self) -> None:
        """Somebody else's container on our network does not hold it."""
        network = self.engine.create_network(
            f"contract-{uuid.uuid4().hex[:12]}", labels=self.labels
        )
        container = self.run_container("sleep", "60", network=network)
        self.engine.remove_network(network)
        state = self.engine.container(container)
        assert state is not None
        self.assertEqual((True, {}), (state.running, state.networks))

    def test_exec_gives_exit_code_and_output(self) -> None:
        """Both streams of the command are in the output."""
        container = self.run_container("sleep", "60")
        result = self.engine.exec(container, ["sh", "-c", "echo out; echo err >&2; exit 7"])
        self.assertEqual(
            (7, ["err", "out"]), (result.exit_code, sorted(result.output.splitlines()))
        )

    def test_exec_waits_for_a_command_that_closed_its_output(self) -> None:
        """The exit code is that of its end."""
        container = self.run_container("sleep", "60")
        result = self.engine.exec(container, ["sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 3"])
        self.assertEqual((3, ""), (result.exit_code, result.output))

    def test_exec_gives_long_output_whole(self) -> None:
        """Many frames become one text."""
        container = self.run_container("sleep", "60")
        result = self.engine.exec(container, ["sh", "-c", "seq 200000"])
        expected = "".join(f"{number}\n" for number in range(1, 200001))
        self.assertEqual(expected, result.output)

    def test_exec_of_a_silent_command_has_a_deadline(self) -> None:
        """Whoever waits for it is told after the engine's timeout."""
        container = self.run_container("sleep", "60")
        engine = connect(Settings(engine_timeout=1))
        self.addCleanup(engine.close)
        with self.assertRaisesRegex(EngineError, "did not answer within 1 s when asked to run sle"):
            engine.exec(container, ["sleep", "30"])

    def test_files_can_be_written_before_the_start(self) -> None:
        """A container reads at its start what was written after its creation; folders appear."""
        spec = ContainerSpec(
            name=f"contract-{uuid.uuid4().hex[:12]}",
            image=self.image,
            labels=self.labels,
            command=["cat", "/new/folder/file"],
        )
        container = self.engine.create_container(spec)
        self.engine.put_files(container, {"/new/folder/file": "grüß".encode()})
        self.engine.start_container(container)
        self.await_end(container)
        self.assertEqual("grüß", self.engine.logs(container))

    def test_logs_can_be_cut_by_tail_and_time(self) -> None:
        """Only the last lines, or only what came after a moment."""
        container = self.run_container("sh", "-c", "echo one; echo two; echo three")
        self.await_end(container)
        self.assertEqual("two\nthree\n", self.engine.logs(container, tail=2))
        later = datetime.now(UTC) + timedelta(seconds=5)
        self.assertEqual("", self.engine.logs(container, since=later))
        self.assertEqual("one\ntwo\nthree\n", self.engine.logs(container, until=later))

    def test_everything_labelled_is_listed_with_its_kind(self) -> None:
        """Stopped containers and networks are found by all of their labels."""
        container = self.run_container("true")
        network = self.engine.create_network(
            f"contract-{uuid.uuid4().hex[:12]}", labels=self.labels
        )
        listed = {(item.kind, item.id) for item in self.engine.labelled(self.labels)}
        self.assertEqual({("container", container), ("network", network)}, listed)

    def test_limits_reach_the_kernel(self) -> None:
        """Memory and processes are bounded as asked for."""
        spec = ContainerSpec(
            name=f"contract-{uuid.uuid4().hex[:12]}",
            image=self.image,
            labels=self.labels,
            command=["sh", "-c", f"cat {MEMORY_LIMIT} 2>/dev/null"],
            memory=64 << 20,
        )
        container = self.engine.create_container(spec)
        self.engine.start_container(container)
        self.await_end(container)
        self.assertEqual(str(64 << 20), self.engine.logs(container).strip())

    def test_a_refusal_carries_the_daemons_status_and_words(self) -> None:
        """The daemon's reason is in the message, its HTTP status beside it."""
        with self.assertRaises(EngineError) as raised:
            self.engine.start_container("no-such-container")
        self.assertEqual(404, raised.exception.status)
        self.assertIn("No such container", str(raised.exception))

    def test_one_engine_serves_many_threads(self) -> None:
        """Requests side by side do not disturb one another."""
        with futures.ThreadPoolExecutor(16) as pool:
            infos = list(pool.map(lambda _: self.engine.info().version, range(64)))
        self.assertEqual(1, len(set(infos)))

    def await_end(self, container: str) -> None:
        """Wait for a container to end by itself."""
        with futures.ThreadPoolExecutor(1) as pool:
            pool.submit(self._poll_end, container).result(timeout=30)

    def _poll_end(self, container: str) -> None:
        pause = threading.Event()
        while (state := self.engine.container(container)) is not None and not state.ended:
            pause.wait(0.02)


class DaemonOutOfReachTest(unittest.TestCase):
    """No daemon, or no leave to use it: the error says what to do."""

    def refused(self, endpoint: Endpoint) -> str:
        """What one is told who asks there."""
        engine = connect(Settings(engine_timeout=5), endpoint=endpoint)
        self.addCleanup(engine.close)
        with self.assertRaises(EngineError) as caught:
            engine.info()
        return str(caught.exception)

    @unittest.skipIf(os.geteuid(), "needs root, to be somebody without rights")
    def test_a_socket_that_one_may_not_use_names_the_group(self) -> None:
        """As docker's own socket is to users outside the group `docker`."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "docker.sock"))
            Path(folder).chmod(0o755)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                Path(path).chmod(0o600)
                os.seteuid(65534)
                self.addCleanup(os.seteuid, 0)
                told = self.refused(Endpoint(url=f"unix://{path}"))
                os.seteuid(0)
        self.assertIn("permission denied", told)
        self.assertIn("usermod -aG docker", told)

    def test_certificates_that_are_not_there_are_named(self) -> None:
        """With what asks for them."""
        with tempfile.TemporaryDirectory() as folder:
            told = self.refused(Endpoint(url="tcp://127.0.0.1:2376", tls=Path(folder)))
            self.assertIn(f"{folder} lacks cert.pem or key.pem", told)
        self.assertIn("DOCKER_CERT_PATH", told)

    def test_a_daemon_behind_ssh_is_looked_for_with_ssh(self) -> None:
        """docker-py keeps to itself what ssh said."""
        far = Endpoint(url="ssh://me@far")
        with (
            self.assertRaisesRegex(EngineUnavailableError, "`ssh ssh://me@far docker version`"),
            map_errors("tell about itself", endpoint=far, timeout=5),
        ):
            raise BrokenPipeError


class DaemonThatHangsTest(unittest.TestCase):
    """A daemon that accepts and never answers does not hang the test run."""

    def setUp(self) -> None:
        """Listen, and say nothing."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "docker.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def test_every_request_has_a_deadline(self) -> None:
        """The error says which daemon, and after how many seconds."""
        endpoint = Endpoint(url=f"unix://{self.path}")
        engine = connect(Settings(engine_timeout=1), endpoint=endpoint)
        self.addCleanup(engine.close)
        with self.assertRaisesRegex(EngineError, rf"{self.path} did not answer within 1 s"):
            engine.info()

    def test_nobody_listening_is_told_with_what_to_run(self) -> None:
        """A socket file without a daemon behind it is no daemon."""
        self.listener.close()
        engine = connect(Settings(), endpoint=Endpoint(url=f"unix://{self.path}"))
        self.addCleanup(engine.close)
        with self.assertRaisesRegex(EngineUnavailableError, "Start it"):
            engine.info()

    def test_a_refused_connection_is_told_in_two_words(self) -> None:
        """What the operating system says, not what three libraries wrap around it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        engine = connect(Settings(), endpoint=Endpoint(url=f"tcp://127.0.0.1:{port}"))
        self.addCleanup(engine.close)
        words = rf":{port}: Connection refused\. Start"
        with self.assertRaisesRegex(EngineUnavailableError, words):
            engine.info()
