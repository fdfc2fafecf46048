"""Registries that want a password, have a certificate of their own, or stand for another."""

import base64
import contextlib
import json
import os
import shutil
import stat
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.images import read_lock
from tests.support.image_case import ImageTestCase
from tests.support.processes import Ran, run_command
from tests.support.registries import PASSWORD, USER, Registry, registry

SECRET = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class AuthTest(ImageTestCase):
    """A registry behind htpasswd."""

    @classmethod
    @contextlib.contextmanager
    def start_registry(cls) -> Iterator[Registry]:
        """A registry with a password."""
        with (
            tempfile.TemporaryDirectory() as folder,
            registry(Path(folder), password=True) as found,
        ):
            yield found

    def setUp(self) -> None:
        """Have a docker configuration of our own, and an image."""
        super().setUp()
        self.config = self.folder / "docker"
        self.config.mkdir()
        self.enterContext(mock.patch.dict(os.environ, {"DOCKER_CONFIG": str(self.config)}))
        self.image = self.push()
        self.write_lock(self.image)

    def configure(self, **config: Any) -> None:
        """Write docker's config.json."""
        (self.config / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def helper(self, name: str, *lines: str) -> None:
        """Install a credential helper."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / f"docker-credential-{name}"
        program.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        path = f"{folder}:{os.environ['PATH']}"
        self.enterContext(mock.patch.dict(os.environ, {"PATH": path}))

    def assert_no_secret(self, ran: Ran) -> None:
        """Neither the password nor its encoded form was printed."""
        for secret in (PASSWORD, SECRET):
            self.assertNotIn(secret, ran.out + ran.err)

    def assert_works(self) -> None:
        """Lock and pull both get in."""
        for argv in (("lock", self.image.reference.tagged), ("pull",)):
            ran = run_command(*argv)
            self.assertEqual(0, ran.status, ran)
            self.assert_no_secret(ran)
        self.assertEqual(self.image, read_lock(self.folder / "images.lock").entries["app"])
        self.assertIsNotNone(self.engine.images.find(self.image.reference.tagged))

    def assert_denied(self, text: str, status: int = 4) -> None:
        """Lock and pull are both turned away, with advice."""
        for argv in (("lock", self.image.reference.tagged), ("pull",)):
            ran = run_command(*argv)
            self.assertEqual(status, ran.status, ran)
            self.assertIn(text, ran.err)
            self.assertIn("docker login", ran.err)
            self.assertNotIn("trying again", ran.err)
            self.assert_no_secret(ran)

    def test_auths(self) -> None:
        """What `docker login` wrote is used; nobody is asked whom ORCHESTRATOR_REGISTRIES lacks."""
        self.configure(auths={self.registry.host: {"auth": SECRET}})
        elsewhere = {"ORCHESTRATOR_REGISTRIES": f"{self.registry.host}/safe"}
        for argv in (("pull",), ("lock", "--check"), ("lock", "other=ghcr.io/team/app:1")):
            with self.subTest(argv):
                ran = run_command(*argv, env=elsewhere)
                self.assertEqual((2, ""), (ran.status, ran.out), ran)
                self.assertIn("not from an allowed registry: ORCHESTRATOR_REGISTRIES has", ran.err)
        self.assert_works()

    def test_helpers(self) -> None:
        """A credential helper of one registry is used, and a store for all of them."""
        answer = json.dumps({"Username": USER, "Secret": PASSWORD})
        all_of_them = json.dumps({self.registry.host: USER})
        self.helper("tests", f"[ $1 = list ] && echo '{all_of_them}' && exit", f"echo '{answer}'")
        for config in ({"credHelpers": {self.registry.host: "tests"}}, {"credsStore": "tests"}):
            with self.subTest(config):
                self.configure(**config)
                self.assert_works()

    def test_nobody(self) -> None:
        """Without credentials it is denied, and with wrong ones."""
        wrong = base64.b64encode(f"{USER}:wrong".encode()).decode()
        for auths in ({}, {self.registry.host: {"auth": wrong}}):
            self.configure(auths=auths)
            self.assert_denied("")

    def test_helper_fails(self) -> None:
        """A helper that is not installed is named, and one that fails, with what it said."""
        self.helper("tests", "echo the keychain is locked; exit 1")
        for name, text in (("absent", "credential-absent"), ("tests", "the keychain is locked")):
            with self.subTest(name):
                self.configure(credHelpers={self.registry.host: name})
                self.assert_denied(text)

    def test_mirror(self) -> None:
        """Its credentials count, not those of the registry it stands in for; its name is locked."""
        self.configure(auths={self.registry.host: {"auth": SECRET}})
        repository = self.image.reference.repository
        lock = self.folder / "images.lock"
        text = lock.read_text(encoding="utf-8").replace(self.registry.host, "ghcr.io")
        lock.write_text(text, encoding="utf-8")
        ghcr = read_lock(lock).entries["app"]
        self.forget(ghcr)
        mirror = {"ORCHESTRATOR_REGISTRY_MIRROR": f"ghcr.io={self.registry.host}"}
        ran = run_command("pull", env=mirror)
        self.assertEqual(0, ran.status, ran)
        self.assert_no_secret(ran)
        self.assertIsNotNone(self.engine.images.find(f"ghcr.io/{repository}:1"))
        lock.unlink()
        self.assertEqual(0, run_command("lock", f"ghcr.io/{repository}:1", env=mirror).status)
        self.assertEqual(ghcr, read_lock(lock).entries["app"])


CERTIFICATES = Path("/etc/docker/certs.d")


@unittest.skipUnless(os.geteuid() == 0, "only root may put a certificate where the daemon looks")
class TlsTest(ImageTestCase):
    """Locking and pulling over TLS."""

    @classmethod
    @contextlib.contextmanager
    def start_registry(cls) -> Iterator[Registry]:
        """A registry with TLS on the address of Docker's bridge, which is not loopback."""
        address = cls.engine.bridge_gateway()
        if address is None:
            raise unittest.SkipTest("this daemon has no bridge network of its own")
        with (
            tempfile.TemporaryDirectory() as folder,
            registry(Path(folder), address=address, tls=True) as found,
        ):
            yield found

    def setUp(self) -> None:
        """Have an image."""
        super().setUp()
        self.image = self.push()

    def trust(self) -> None:
        """Put the CA where docker looks."""
        folder = CERTIFICATES / self.registry.host
        folder.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, folder)
        assert self.registry.ca
        shutil.copy(self.registry.ca, folder / "ca.crt")

    def test_trusted(self) -> None:
        """With the CA in certs.d both the daemon and lock trust the registry."""
        self.trust()
        ran = run_command("lock", self.image.reference.tagged)
        self.assertEqual(0, ran.status, ran)
        self.assertEqual(self.image, read_lock(self.folder / "images.lock").entries["app"])
        ran = run_command("pull")
        self.assertEqual(0, ran.status, ran)

    def test_not_trusted(self) -> None:
        """Without it both refuse at once, with status 9 and where the CA belongs."""
        self.write_lock(self.image)
        for argv in (("pull",), ("lock", "--update")):
            with self.subTest(argv):
                ran = run_command(*argv)
                self.assertEqual(9, ran.status, ran)
                self.assertIn("/etc/docker/certs.d/REGISTRY/ca.crt", ran.err)
                self.assertNotIn("trying again", ran.err)
