"""Daemons that are not behind a unix socket: TCP, TLS and ssh."""

import shutil
import signal
import ssl
import tempfile
import unittest
from pathlib import Path

from orchestrator.services.tls import Tls
from tests.faults.case import THOROUGH, FaultCase, repeated
from tests.faults.proxy import Proxy
from tests.support.sshd import ssh_server


class RemoteTest(FaultCase):
    """The same guarantees by other means."""

    def setUp(self) -> None:
        """Make a folder for keys and scripts."""
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="orchestrator-remote-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def _all_endings(self, url: str, *before: str, told: str = r"\A\Z") -> None:
        numbers = (signal.SIGTERM, signal.SIGKILL)
        owners = [self.start("wait", url=url, before=before) for _ in numbers]
        if THOROUGH:
            owner = self.started("normal", url=url, before=before)
            owner.go()
            self.assertEqual((0, ""), (owner.wait(), owner.errors()))
        for owner in owners:
            owner.expect("ready")
            self.assertEqual(1, len(owner.watchdogs()))
        for owner, number in zip(owners, numbers, strict=True):
            since = owner.kill(number)
        for owner, number in zip(owners, numbers, strict=True):
            self.assertEqual(-number, owner.wait())
            self.assertRegex(owner.errors(), told)
        self.assert_nothing_left(*owners, since=since)
        for owner in owners:
            # Before the way to the daemon is closed: it would wait for that to come back.
            owner.await_watchdogs()

    @repeated(3)
    def test_tls(self) -> None:
        """Over TLS with client certificates SIGTERM and SIGKILL leave nothing."""
        made = Tls.create(["127.0.0.1"], client="tests")
        assert made.client
        files = {"server.pem": made.server.pem, "ca.pem": made.authority}
        files |= {"cert.pem": made.client.certificate, "key.pem": made.client.key}
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        settings = ["DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={self.folder}"]
        with Proxy(self.daemon.url, tcp=True, tls=context) as proxy:
            self._all_endings(proxy.url, "/usr/bin/env", *settings)

    @repeated(3)
    def test_ssh(self) -> None:
        """Over ssh, to a host of ~/.ssh/config, SIGTERM and SIGKILL leave nothing."""
        if not shutil.which("docker"):
            raise unittest.SkipTest("the far end of ssh takes the docker command")
        with ssh_server(self.folder, daemon=self.daemon.url) as path:
            self._all_endings("ssh://jump", "/usr/bin/env", f"PATH={path}", told=_LATE)


# A signal's handler has five seconds, and a busy machine may log in later; the watchdog has more.
_LATE = r"\A(orchestrator: it is not known what is left .* Its watchdog goes on .*\n)?\Z"
