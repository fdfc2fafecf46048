"""The engine's port, held against the real daemon; and a daemon that hangs."""

import json
import os
import re
import socket
import tempfile
import unittest
import uuid
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from orchestrator.engine import Endpoint, connect
from orchestrator.engine.api import TEST_PROCESS, ContainerSpec, Label, RunOptions
from orchestrator.engine.docker import Engine
from orchestrator.engine.endpoint import own_address
from orchestrator.environment.late_engine import LateEngine
from orchestrator.errors import EngineError, EngineWarning
from orchestrator.images import ensure_image, find_lock
from orchestrator.sessions import Thing, remove_things, snapshot
from orchestrator.settings import Settings
from tests.faults.process import await_that
from tests.faults.proxy import Proxy, answer, good


class EngineContractTest(unittest.TestCase):
    """What an engine does, shown on the real one."""

    engine: ClassVar[Engine]
    image: ClassVar[str]
    marks: ClassVar[dict[str, str]]
    box: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """Have an engine, an image, a label of our own and a container to work in."""
        settings = Settings.from_environment()
        cls.engine = connect(settings)
        cls.addClassCleanup(cls.engine.close)
        redis = find_lock(settings).entries["redis"]
        cls.image = ensure_image(cls.engine, redis, settings=settings).id
        cls.marks = {Label.RUN: str(uuid.uuid4())}
        cls.addClassCleanup(cls.remove_all)
        cls.box = cls.run_container("sleep", "600")

    @classmethod
    def remove_all(cls) -> None:
        """Remove what carries our label."""
        assert not remove_things(cls.engine, snapshot(cls.engine, cls.marks)[0], seconds=5)

    @classmethod
    def run_container(cls, *command: str, network: str | None = None) -> str:
        """Create and start a container."""
        spec = ContainerSpec(
            name=f"contract-{uuid.uuid4().hex[:12]}",
            image=cls.image,
            labels=cls.marks,
            command=command,
            network=network,
        )
        container = cls.engine.create_container(spec)
        cls.engine.start_container(container)
        return container

    def status(self, container: str) -> str:
        """The container's state in a word."""
        return getattr(self.engine.container(container), "status", "gone")

    def behind(self, instead: Callable[[str], bytes | None]) -> Engine:
        """The engine, with other answers."""
        proxy = self.enterContext(Proxy(self.engine.endpoint.url, instead=instead))
        engine = connect(Settings(), endpoint=Endpoint(url=proxy.url))
        self.addCleanup(engine.close)
        return engine

    def test_a_container_is_running_until_it_is_killed(self) -> None:
        """State follows the container's life; removals at once all succeed, and wait for it."""
        container = self.run_container("sleep", "60")
        self.assertEqual("running", self.status(container))
        self.engine.kill_container(container)
        self.engine.start_container(container)
        self.engine.pause_container(container)
        self.assertEqual("paused", self.status(container))
        self.engine.unpause_container(container)
        self.assertEqual("running", self.status(container))
        gone = [Thing("container", container, "") for _ in range(4)]
        with futures.ThreadPoolExecutor(4) as pool:
            left = pool.map(lambda thing: remove_things(self.engine, [thing], seconds=30), gone)
            self.assertEqual([[]] * 4, list(left))
        self.assertEqual("gone", self.status(container))

    def test_a_start_needs_no_docker_py(self) -> None:
        """What it asks has the same answers without, a refusal too."""
        late = LateEngine(Settings.from_environment())
        self.addCleanup(late.close)
        network = f"contract-{uuid.uuid4().hex[:12]}"
        late.create_network(network, labels=self.marks)
        self.assertEqual(self.engine.images.find(self.image), late.images.find(self.image))
        self.assertEqual(self.engine.test_process, late.test_process)
        spec = ContainerSpec(name="", image=self.image, labels=self.marks, network=network)
        for engine in (self.engine, late):
            name = f"contract-{uuid.uuid4().hex[:12]}"
            created = engine.create_container(replace(spec, name=name, command=["sleep", "60"]))
            engine.start_container(created)
            self.assertEqual(self.engine.container(created), late.container(name))
            self.assertIn(network, getattr(late.container(name), "networks", {}))
        self.assertEqual(self.engine.is_podman, "made" in vars(late))
        for engine in (self.engine, late):
            with self.assertRaisesRegex(EngineError, "failed to create network") as caught:
                engine.create_network(network, labels=self.marks)
            self.assertEqual(409, caught.exception.status)

    def test_exec_gives_exit_code_and_output(self) -> None:
        """Both streams, however long; the exit code is that of the end, not of a closed output."""
        both = self.engine.exec(self.box, ["sh", "-c", "echo out; echo err >&2; exit 7"])
        self.assertEqual((7, ["err", "out"]), (both.exit_code, sorted(both.output.splitlines())))
        self.assertEqual(("out\n", "err\n"), (both.stdout, both.stderr))
        long = self.engine.exec(self.box, ["seq", "200000"])
        self.assertEqual("".join(f"{number}\n" for number in range(1, 200001)), long.output)
        closed = self.engine.exec(self.box, ["sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 3"])
        self.assertEqual((3, ""), (closed.exit_code, closed.output))

    def test_exec_never_waits_for_itself(self) -> None:
        """Input and output are larger than every buffer, or the command reads nothing of it."""
        much = b"0123456789abcdef" * (1 << 19)
        echoed = self.engine.exec(self.box, ["cat"], stdin=much)
        self.assertEqual((0, True), (echoed.exit_code, echoed.stdout_bytes == much))
        deaf = self.engine.exec(
            self.box, ["sh", "-c", "exec <&-; seq 100000 >&2; exit 3"], stdin=much
        )
        self.assertEqual(3, deaf.exit_code)
        last = "all of its input)" if self.engine.is_podman else "\n100000"  # or it says so
        self.assertTrue(deaf.stderr.endswith(f"{last}\n"), "not all of its output")
        self.assertEqual(0, self.engine.exec(self.box, ["cat"], stdin=b"").exit_code)

    def test_exec_of_a_silent_command_has_a_deadline(self) -> None:
        """Whoever waits for it is told after the engine's timeout."""
        engine = connect(Settings(engine_timeout=1))
        self.addCleanup(engine.close)
        with self.assertRaisesRegex(EngineError, "did not answer within 1 s when asked to run sle"):
            engine.exec(self.box, ["sleep", "30"], stdin=b"x" * (1 << 24))

    def test_logs_can_be_cut_by_tail_and_time(self) -> None:
        """Only the last lines, or only what came after a moment."""
        container = self.run_container("sh", "-c", "echo one; echo two; echo three")
        await_that(lambda: self.status(container) == "exited", "it runs")
        self.assertEqual("two\nthree\n", self.engine.logs(container, tail=2))
        later = datetime.now(UTC) + timedelta(seconds=5)
        self.assertEqual("", self.engine.logs(container, since=later))

    def test_a_refusal_carries_the_daemons_status_and_words(self) -> None:
        """The daemon's reason is in the message, its HTTP status beside it."""
        with self.assertRaises(EngineError) as raised:
            self.engine.start_container("no-such-container")
        self.assertEqual(404, raised.exception.status)
        self.assertRegex(str(raised.exception), "(?i)no such container")

    def test_what_the_daemon_cannot_do_is_a_warning(self) -> None:
        """In its words, which name no container: Python shows the same text once."""
        said = b'{"Id": "1", "Warnings": ["No swap limit\\u0007 support"]}'
        there = r"POST \S+/containers/create"
        instead = lambda line: good(said) if re.match(there, line) else None  # noqa: E731
        engine = self.behind(instead)
        with self.assertWarnsRegex(EngineWarning, r"No swap limit\\x07 support$") as caught:
            engine.create_container(ContainerSpec(name="never", image="x", labels={}))
        self.assertNotIn("never", str(caught.warning))

    def test_an_engine_without_a_gateway_for_hosts_creates_all_the_same(self) -> None:
        """As Docker before 20.10 refuses."""
        if self.engine.is_podman:
            self.skipTest("Podman is asked for an address, never for a gateway")
        refusals = [answer(400, 'invalid IP address in add-host: "host-gateway"')]
        there = r"POST \S+/containers/create"
        instead = lambda line: refusals.pop() if refusals and re.match(there, line) else None  # noqa: E731
        engine = self.behind(instead)
        spec = ContainerSpec(
            name=f"contract-{uuid.uuid4().hex[:12]}",
            image=self.image,
            labels=self.marks,
            command=["sleep", "60"],
            options=RunOptions(
                extra_hosts={TEST_PROCESS: engine.test_process, "far": "203.0.113.7"}
            ),
        )
        self.engine.start_container(engine.create_container(spec))
        self.assertEqual([], refusals)
        hosts = self.engine.exec(spec.name, ["cat", "/etc/hosts"]).stdout
        self.assertRegex(hosts, r"203\.0\.113\.7\s+far")

    def test_containers_of_a_rootless_engine_call_the_machines_own_address(self) -> None:
        """The gateway that it knows is in a network of its own."""
        about = {"Version": "26.1.5", "ApiVersion": "1.40", "Components": [{"Name": "rootlesskit"}]}
        instead = lambda line: good(json.dumps(about).encode()) if "/version" in line else None  # noqa: E731
        engine = self.behind(instead)
        self.assertEqual(own_address("198.51.100.1"), engine.test_process)


class DaemonOutOfReachTest(unittest.TestCase):
    """No daemon, one that hangs, or no leave to use it: the error says what to do."""

    def setUp(self) -> None:
        """Listen where a daemon would, and say nothing."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folder.chmod(0o755)
        self.path = self.folder / "docker.sock"
        self.listener = self.enterContext(socket.socket(socket.AF_UNIX))
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.here = Endpoint(url=f"unix://{self.path}")
        connect(Settings(), endpoint=self.here).close()  # nobody may not import what it needs

    def refused(self, endpoint: Endpoint, *, absent: bool = False) -> str:
        """What one is told who asks there, where a daemon is or is not."""
        engine = connect(Settings(engine_timeout=1), endpoint=endpoint)
        self.addCleanup(engine.close)
        with self.assertRaises(EngineError) as caught:
            engine.info()
        self.assertIs(absent, getattr(caught.exception, "absent", False))
        return str(caught.exception)

    @unittest.skipIf(os.geteuid(), "needs root, to be somebody without rights")
    def test_a_socket_that_one_may_not_use_names_the_group(self) -> None:
        """As docker's own socket is to users outside the group `docker`."""
        self.path.chmod(0o600)
        connect(Settings(), endpoint=self.here).close()  # imports what one may not read then
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        told = self.refused(self.here)
        self.assertIn("permission denied", told)
        self.assertIn("usermod -aG docker", told)

    def test_every_request_has_a_deadline(self) -> None:
        """The error says which daemon, and after how many seconds."""
        self.assertIn(f"{self.path} did not answer within 1 s", self.refused(self.here))

    def test_nobody_listening_is_told_with_what_to_run(self) -> None:
        """A socket without a daemon behind it; in the system's words, not three libraries'."""
        self.listener.close()
        self.assertIn("Start it", self.refused(self.here, absent=True))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        told = self.refused(Endpoint(url=f"tcp://127.0.0.1:{port}"), absent=True)
        self.assertIn(f":{port}: Connection refused. Start", told)
