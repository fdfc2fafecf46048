"""`python -m orchestrator doctor` where something really is wrong."""

import contextlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from unittest import mock

from orchestrator.cli import doctor
from orchestrator.cli.doctor import Finding
from orchestrator.engine import Endpoint, connect
from orchestrator.engine.api import Label
from orchestrator.sessions import Thing, remove_things
from orchestrator.sessions.identity import this_process
from tests.support.image_case import ImageTestCase
from tests.support.processes import run_command
from tests.support.small_daemon import SmallDaemon, small_daemon
from tests.support.tiny_images import tiny_image

PODMAN = "unix:///run/user/1000/podman/podman.sock"


class DoctorTest(ImageTestCase):
    """The doctor on the daemon that is here, and where there is none."""

    def setUp(self) -> None:
        """Have an empty docker configuration, and leave out what others left on this daemon."""
        super().setUp()
        nothing = Finding(about="leftover", text="not looked at")
        self.enterContext(mock.patch.object(doctor, "check_leftovers", return_value=nothing))
        (self.folder / "docker").mkdir()
        config = {"DOCKER_CONFIG": str(self.folder / "docker")}
        self.enterContext(mock.patch.dict(os.environ, config))

    def assert_finds(self, about: str, text: str, mend: str, **env: str) -> None:
        """Exactly one thing is wrong: what, and the command that mends it."""
        ran = run_command("doctor", "--json", env=env)
        self.assertEqual(1, ran.status, ran)
        [wrong] = [found for found in json.loads(ran.out) if found["mend"]]
        self.assertEqual(about, wrong["about"])
        self.assertIn(text, wrong["text"])
        self.assertIn(mend, wrong["mend"])

    def test_healthy(self) -> None:
        """When all is well each check says so, and the status is 0."""
        self.write_lock(self.push())
        run_command("pull")
        ran = run_command("doctor")
        self.assertEqual(0, ran.status, ran)
        for text in ("ok    daemon   Docker ", "ok    disk", "ok    lock", "all here, with the"):
            self.assertIn(text, ran.out)

    def test_what_is_wrong_is_told_with_what_mends_it(self) -> None:
        """Sockets, addresses, settings, the lock file and docker's own configuration."""
        stale, file = self.folder / "stale", self.folder / "file"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(stale))
        file.touch()
        lock, config = self.write_lock(), Path("docker/config.json")
        host = "DOCKER_HOST"
        for about, text, mend, env in (
            ("daemon", "/nowhere/s (by DOCKER_HOST)", "unset DOCKER_HOST", {host: "/nowhere/s"}),
            ("daemon", f"nobody listens on {stale}", "start the daem", {host: f"unix://{stale}"}),
            ("daemon", "no socket", "start podman.socket; or: unset", {host: PODMAN}),
            ("daemon", ":1: Conn", "Docker on 127.0.0.1; or: unset", {host: "tcp://127.0.0.1:1"}),
            ("daemon", "'far', of DOCKER_CON", "unset DOCKER_CON", {"DOCKER_CONTEXT": "far"}),
            ("daemon", f"{file} is not the socket", "unset", {host: f"unix://{file}"}),
            ("daemon", "DOCKER_HOST is 'gopher://x'", "unset", {host: "gopher://x"}),
            ("settings", "_PULL='maybe'", "unset", {"ORCHESTRATOR_PULL": "maybe"}),
        ):
            with self.subTest(text):
                self.assert_finds(about, text, mend, **env)
        for path, content, about, text, mend in (
            (
                config,
                '{"currentContext": "x"}',
                "daemon",
                f"{config}, cannot",
                "context use default",
            ),
            (config, "{", "docker", "is not what docker writes", "docker login"),
            (config, '{"credsStore": "no"}', "docker", "credential-no", "install docker-c"),
            (lock, "version = 1\n[x]\n", "lock", "images.lock: unknown key 'x'", "correct"),
        ):
            with self.subTest(text):
                path.write_text(content, encoding="utf-8")
                self.assert_finds(about, text, mend)
                config.unlink(missing_ok=True)

    def test_other_bytes(self) -> None:
        """Images that are missing or have other bytes are listed with the command that mends it."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        list(self.engine.images.pull(other.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        missing = self.push(name="missing")
        self.write_lock(image, missing)
        text = f"this machine: {missing.reference.familiar}\nhere with other bytes"
        self.assert_finds("images", text, "python -m orchestrator pull")


class PrivateDaemonTest(ImageTestCase):
    """Conditions that only a daemon of one's own may have: one with a small disk."""

    small: SmallDaemon

    @classmethod
    def setUpClass(cls) -> None:
        """Start it."""
        super().setUpClass()
        cls.small = cls.enterClassContext(small_daemon(disk="20m", registry=cls.registry))

    def test_full_disk(self) -> None:
        """Too little room: doctor says so, pull ends with status 7, and works with more room."""
        large = self.push(tiny_image(content=os.urandom(24_000_000)))
        self.write_lock(large)
        ran = run_command("doctor", env=self.small.env)
        self.assertEqual(1, ran.status, ran)
        self.assertRegex(ran.out, r"WRONG disk .* GB free in .*; at least .* are needed")
        self.assertIn("docker system df", ran.out)
        ran = run_command("pull", env=self.small.env)
        self.assertEqual(7, ran.status, ran)
        self.assertIn("no space left on device", ran.err)
        self.assertIn("Make room", ran.err)
        self.small.resize("200m")
        self.assertEqual(0, run_command("pull", env=self.small.env).status)

    def test_leftovers(self) -> None:
        """What a dead process left is counted, with the command that removes it."""
        self.write_lock()
        dead = replace(this_process(), pid=1 << 30, start=1)
        marks = {Label.MARK: "1", Label.SESSION: "s", Label.OWNER: dead.to_label()}
        endpoint = Endpoint(url=self.small.daemon.url)
        with contextlib.closing(connect(self.settings, endpoint=endpoint)) as engine:
            network = engine.create_network("left", labels=marks)
            ran = run_command("doctor", env=self.small.env)
            remove_things(engine, [Thing("network", network, "left")], seconds=5)
        self.assertEqual(1, ran.status, ran)
        self.assertIn("WRONG leftover 1 containers, networks or volumes of dead", ran.out)
        self.assertIn("python -m orchestrator reap", ran.out)
