"""What a service may do to this machine and tells of itself, as Docker and the kernel see it."""

import itertools
import json
import os
import subprocess
import unittest
from typing import Any
from unittest import mock

from orchestrator import Container, Postgres, Redis, Service, ServicesMixin
from orchestrator.services.hooks import CAPABILITIES
from tests.support.classes import LeakCheckedTestCase, left_of_this_process

SLEEP = ["sleep", "600"]
SOCKET = "/var/run/docker.sock"
# linux/capability.h, without those that nothing here has
CAPABILITY_BITS = """
CHOWN DAC_OVERRIDE - FOWNER FSETID KILL SETGID SETUID SETPCAP - NET_BIND_SERVICE - NET_ADMIN NET_RAW
- - - - SYS_CHROOT
"""
BITS = {name: bit for bit, name in enumerate(CAPABILITY_BITS.split())}


def output(*argv: str) -> str:
    """What a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def inspected(container: str) -> dict[str, Any]:
    """What Docker knows of a container."""
    found: dict[str, Any] = json.loads(output("docker", "inspect", container))[0]
    return found


def status(service: Service) -> dict[str, str]:
    """What the kernel knows of its first process."""
    lines = service.exec(["cat", "/proc/1/status"]).output.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def bounding(service: Service) -> set[str]:
    """The capabilities that no process of it can ever exceed."""
    mask = int(status(service)["CapBnd"], 16)
    names = {name for name, bit in BITS.items() if mask >> bit & 1}
    assert sum(1 << BITS[name] for name in names) == mask, f"more than is known: {mask:x}"
    return names


def assert_confined(case: unittest.TestCase, service: Service, *, capabilities: set[str]) -> None:
    """Not privileged, no new privileges, nothing of the host mounted, own namespaces."""
    found = inspected(service.container_id)
    host = found["HostConfig"]
    case.assertFalse(host["Privileged"])
    case.assertTrue(host["CapDrop"])  # Podman lists what that leaves out
    case.assertEqual(["no-new-privileges"], host["SecurityOpt"])
    case.assertEqual([], host["Devices"] or [])
    for mode in ("PidMode", "UTSMode"):
        case.assertIn(host[mode], ("", "private"))
    case.assertNotEqual("host", host["NetworkMode"])
    case.assertEqual([], [it for it in found["Mounts"] if it["Type"] == "bind"])
    for bindings in filter(None, host["PortBindings"].values()):  # Podman 4 has None for no port
        case.assertEqual(["127.0.0.1"], [it["HostIp"] for it in bindings])
    case.assertEqual("1", status(service)["NoNewPrivs"])
    case.assertEqual(capabilities, bounding(service))
    if capabilities != set(CAPABILITIES):  # a server of ours has given up what it started with
        case.assertEqual(0, int(status(service)["CapEff"], 16))
    case.assertNotEqual(0, service.exec(["test", "-e", SOCKET]).exit_code)


class ContainerSecurityTest(ServicesMixin, unittest.TestCase):
    """Every service, not only those that somebody thought of; Kafka is in its own test."""

    db = Postgres()
    cache = Redis(users={"app": "+@all"})
    box = Container(image="redis", entrypoint=SLEEP, ports=["5300/udp"])
    asked = Container(
        image="redis",
        entrypoint=SLEEP,
        capabilities=["NET_ADMIN"],
        mounts={SOCKET: SOCKET},
        allow=["docker-socket"],
    )
    none = Container(image="redis", entrypoint=SLEEP, capabilities=[])

    def test_every_service_is_confined(self) -> None:
        """Servers have only what their images use, and their own processes nothing of it."""
        own = {"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}
        for service, capabilities in (
            (self.cache, own),
            (self.db, own | {"FOWNER"}),
            (self.box, set(CAPABILITIES)),
        ):
            with self.subTest(service.alias):
                assert_confined(self, service, capabilities=capabilities)

    def test_capabilities_and_the_engines_socket_are_there_where_they_are_asked_for(self) -> None:
        """By name: those, and no others."""
        self.assertEqual({"NET_ADMIN"}, bounding(self.asked))
        self.assertEqual(0, self.asked.exec(["test", "-S", SOCKET]).exit_code)
        self.assertEqual(set(), bounding(self.none))

    def test_the_helper_of_slowed_may_do_just_its_work(self) -> None:
        """It has two capabilities and one device, and only in the service's network namespace."""
        with self.cache.slowed(latency=0.01):
            [helper] = [it for it in left_of_this_process() if "helper" in it.name]
            host = inspected(helper.id)["HostConfig"]
        self.assertFalse(host["Privileged"])
        self.assertTrue(host["CapDrop"])
        added = {name.removeprefix("CAP_") for name in host["CapAdd"]}
        added.add("NET_RAW")  # which Podman 4 does not list
        self.assertEqual({"NET_ADMIN", "NET_RAW"}, added)
        self.assertEqual(["/dev/net/tun"], [it["PathOnHost"] for it in host["Devices"]])
        self.assertEqual(f"container:{self.cache.container_id}", host["NetworkMode"])

    def test_every_server_has_a_long_password_of_its_own(self) -> None:
        """No process list, label, log or info of any has it."""
        self.cache.client.ping()
        with self.db.connect() as connection:
            connection.execute("select 1")
        for service in (self.db, self.cache):
            self.assertGreaterEqual(len(str(service.password)), 20)
            config = inspected(service.container_id)["Config"]
            shown = [
                output("ps", "axww"),
                json.dumps([config["Labels"], config["Cmd"], config["Entrypoint"]]),
                service.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).output,
                output("docker", "logs", service.container_id),
                *(service.logs(), str(service.info()), repr(service)),
            ]
            for secret, text in itertools.product(service.secrets(), shown):
                self.assertNotIn(str(secret), text)


class RegistriesTest(LeakCheckedTestCase):
    """Where images may come from."""

    def test_an_image_from_another_registry_is_refused_before_anything_is_made(self) -> None:
        """ORCHESTRATOR_REGISTRIES counts for every service, locked or not."""
        with mock.patch.dict(os.environ, {"ORCHESTRATOR_REGISTRIES": "registry.example.com/safe"}):
            text = self.assert_cannot_start(
                "LockError", "is not from an allowed registry", cache=Redis()
            )
        self.assertIn("ORCHESTRATOR_REGISTRIES has registry.example.com/safe", text)
