"""Registries that ask who is there: docker's own configuration answers, secrets stay secret."""

import base64
import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.images import read_lock
from tests.support.image_case import ImageTestCase, Ran
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
            ran = self.command(*argv)
            self.assertEqual(0, ran.status, ran)
            self.assert_no_secret(ran)
        self.assertEqual(self.image, read_lock(self.folder / "images.lock").entries["app"])
        self.assertIsNotNone(self.engine.images.find(self.image.reference.tagged))

    def assert_denied(self, text: str, status: int = 4) -> None:
        """Lock and pull are both turned away, with advice."""
        for argv in (("lock", self.image.reference.tagged), ("pull",)):
            ran = self.command(*argv)
            self.assertEqual(status, ran.status, ran)
            self.assertIn(text, ran.err)
            self.assertIn("docker login", ran.err)
            self.assertNotIn("trying again", ran.err)
            self.assert_no_secret(ran)

    def test_auths(self) -> None:
        """What `docker login` wrote is used."""
        self.configure(auths={self.registry.host: {"auth": SECRET}})
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
        """The credentials of the mirror count, not those of the registry it stands in for."""
        self.configure(auths={self.registry.host: {"auth": SECRET}})
        repository = self.image.reference.repository
        lock = self.folder / "images.lock"
        text = lock.read_text(encoding="utf-8").replace(self.registry.host, "ghcr.io")
        lock.write_text(text, encoding="utf-8")
        ghcr = read_lock(lock).entries["app"]
        self.forget(ghcr)
        ran = self.command(
            "pull", env={"ORCHESTRATOR_REGISTRY_MIRROR": f"ghcr.io={self.registry.host}"}
        )
        self.assertEqual(0, ran.status, ran)
        self.assert_no_secret(ran)
        self.assertIsNotNone(self.engine.images.find(f"ghcr.io/{repository}:1"))
