"""What a service may do to this machine, claim by claim, as Docker and the kernel tell it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import unittest
from typing import TYPE_CHECKING, Any
from unittest import mock

from orchestrator import Container, Kafka, Postgres, Redis, ServicesMixin
from orchestrator.services.hooks import CAPABILITIES
from tests.support.classes import LeakCheckedTestCase, left_of_this_process

if TYPE_CHECKING:
    from orchestrator import Service

SLEEP = ["sleep", "60"]
# linux/capability.h
BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
}


def inspected(container: str) -> dict[str, Any]:
    """What Docker knows of a container."""
    done = subprocess.run(["docker", "inspect", container], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
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


def own_addresses() -> set[str]:
    """This machine's addresses other than loopback."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.connect(("198.51.100.1", 9))  # no packet is sent; the kernel chooses our address
        return {probe.getsockname()[0]}


class ContainerSecurityTest(LeakCheckedTestCase):
    """Every service, not only those that somebody thought of."""

    def test_every_service_is_confined(self) -> None:  # noqa: C901 - its inner tests together
        """Not privileged, no new privileges, nothing of the host mounted, own namespaces."""

        class Everything(ServicesMixin, unittest.TestCase):
            db = Postgres()
            cache = Redis()
            events = Kafka()
            box = Container(image="redis", entrypoint=SLEEP, ports=["5300/udp"])

            def test_docker_knows(self) -> None:
                for service in (self.db, self.cache, self.events, self.box):
                    with self.subTest(service.alias):
                        found = inspected(service.container_id)
                        host = found["HostConfig"]
                        self.assertFalse(host["Privileged"])
                        self.assertEqual(["ALL"], host["CapDrop"])
                        self.assertEqual(["no-new-privileges"], host["SecurityOpt"])
                        self.assertEqual([], host["Devices"] or [])
                        self.assertEqual(["", ""], [host["PidMode"], host["UTSMode"]])
                        self.assertNotEqual("host", host["NetworkMode"])
                        binds = [it for it in found["Mounts"] if it["Type"] == "bind"]
                        self.assertEqual([], binds)
                        for bindings in host["PortBindings"].values():
                            self.assertEqual(["127.0.0.1"], [it["HostIp"] for it in bindings])

            def test_another_address_of_this_machine_refuses(self) -> None:
                for address in own_addresses():
                    with self.subTest(address), self.assertRaises(OSError):
                        socket.create_connection((address, self.cache.port), timeout=2)

            def test_the_kernel_knows(self) -> None:
                for service in (self.db, self.cache, self.events, self.box):
                    with self.subTest(service.alias):
                        self.assertEqual("1", status(service)["NoNewPrivs"])
                        self.assertLessEqual(bounding(service), set(CAPABILITIES))

            def test_servers_have_only_what_their_images_use(self) -> None:
                own = {"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}
                self.assertEqual(own, bounding(self.cache))
                self.assertEqual(own | {"FOWNER"}, bounding(self.db))
                self.assertEqual(set(), bounding(self.events))
                for service in (self.db, self.cache, self.events):
                    self.assertEqual(0, int(status(service)["CapEff"], 16), service.alias)

            def test_no_engine_can_be_reached_from_inside(self) -> None:
                for service in (self.db, self.cache, self.events, self.box):
                    for path in ("/var/run/docker.sock", "/run/docker.sock"):
                        self.assertNotEqual(0, service.exec(["test", "-e", path]).exit_code)

        self.assert_passes(Everything)

    def test_capabilities_and_the_engines_socket_are_there_where_they_are_asked_for(self) -> None:
        """By name: those, and no others."""
        path = "/var/run/docker.sock"

        class Asked(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=SLEEP,
                capabilities=["NET_ADMIN"],
                mounts={path: path},
                allow=["docker-socket"],
            )
            none = Container(image="redis", entrypoint=SLEEP, capabilities=[])

            def test_it(self) -> None:
                self.assertEqual({"NET_ADMIN"}, bounding(self.box))
                self.assertEqual(0, self.box.exec(["test", "-S", path]).exit_code)
                self.assertEqual(set(), bounding(self.none))

        self.assert_passes(Asked)

    def test_the_helper_of_slowed_may_do_just_its_work(self) -> None:
        """It has two capabilities and one device, and only in the service's network namespace."""

        class Slowed(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                with self.cache.slowed(latency=0.01):
                    [helper] = [it for it in left_of_this_process() if "helper" in it.name]
                    host = inspected(helper.id)["HostConfig"]
                self.assertFalse(host["Privileged"])
                self.assertEqual(["ALL"], host["CapDrop"])
                self.assertEqual({"NET_ADMIN", "NET_RAW"}, set(host["CapAdd"]))
                self.assertEqual(["/dev/net/tun"], [it["PathOnHost"] for it in host["Devices"]])
                self.assertEqual(f"container:{self.cache.container_id}", host["NetworkMode"])

        self.assert_passes(Slowed)

    def test_an_image_from_another_registry_is_refused_before_anything_is_made(self) -> None:
        """ORCHESTRATOR_REGISTRIES counts for every service, locked or not."""

        class Elsewhere(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                """Never reached."""

        with mock.patch.dict(os.environ, {"ORCHESTRATOR_REGISTRIES": "registry.example.com/safe"}):
            text = self.assert_error(Elsewhere, "LockError", "is not from an allowed registry")
        self.assertIn("ORCHESTRATOR_REGISTRIES has registry.example.com/safe", text)
