"""`Compose`: the services of a Compose file, started by the real engine."""

import os
import shutil
import socket
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar
from unittest import mock

from orchestrator import Compose, Redis, ServicesMixin
from orchestrator.engine.api import Label
from orchestrator.errors import ServiceNotRunningError
from tests.support.classes import LeakCheckedTestCase, left_of_this_process

SHOP = """
x-common: &common {image: redis, entrypoint: [sleep, "600"], restart: always}
services:
  cache:
    image: redis
    ports: ["6379:6379"]
    networks: {default: {aliases: [store-room]}, back: }
    healthcheck: {test: [CMD, redis-cli, ping], interval: 10s}
  web-app:
    image: redis
    entrypoint: [sh, -c]
    command: ["cat /etc/greeting; echo $$WHO $$WHERE; redis-cli -h cache ping; exec sleep 600"]
    environment: {WHO: "${NOBODY:-${NONE:-world}}"}
    env_file: web.env
    depends_on:
      cache: {condition: service_healthy}
      job: {condition: service_completed_successfully}
      checked: {condition: service_healthy}
    volumes:
      - ./greeting:/etc/greeting:ro
      - data:/data:ro
      - programs:/usr/bin
      - ./tree:/tree
      - {type: tmpfs, target: /small, tmpfs: {size: 1m, mode: 0700}}
    tmpfs: /scratch:size=16m,mode=750
    secrets: [token, {source: token, target: /etc/token, mode: 0440, uid: "5"}]
    configs: [{source: settings, target: /etc/settings}]
    mem_limit: 64m
    pids_limit: 100
    working_dir: /srv
    hostname: box
    container_name: shop-web
    extra_hosts: ["there=10.1.2.3"]
    # Podman 4 raises these two where they are not given, and root may not be allowed to.
    ulimits: {memlock: {soft: 65536, hard: 131072}, nofile: 4096, nproc: 8192}
    sysctls: {net.core.somaxconn: 1234}
    init: true
  job:
    image: redis
    entrypoint: [sh, -c, "echo made > /data/note; echo hers > /tree/new"]
    volumes: ["data:/data", "./tree:/tree"]
  hardened:
    <<: *common
    tty: true
    read_only: true
    tmpfs: /run
    secrets: [token]
    volumes: ["/work", "./greeting:/etc/greeting", "programs:/programs"]
  hidden:
    <<: *common
    networks: [back]
    volumes: ["./tree:/tree:ro", "./greeting:/tree/run"]
  checked:
    build: {context: ., dockerfile: Checked}
  tools:
    <<: *common
    profiles: [tools]
volumes: {data: , programs: }
networks: {back: {internal: true}}
secrets: {token: {file: ./token}}
configs: {settings: {content: "colour=${COLOUR:-red}"}}
"""
# Its check succeeds after its first failure; the image's own interval would be waited for in vain.
CHECKED = """
FROM redis
HEALTHCHECK --interval=1h CMD test -e /ready || ! touch /ready
ENTRYPOINT ["sleep", "600"]
"""


class ComposeTest(ServicesMixin, unittest.TestCase):
    """What runs is what the file says, beside what the class declares."""

    folder: ClassVar[Path] = Path(tempfile.gettempdir()) / f"orchestrator-compose-{os.getpid()}"
    stack = Compose(folder, allow=[folder])
    store = Redis()
    late = Redis(depends_on=["web-app"])

    @classmethod
    def setUpClass(cls) -> None:
        """Write the file, and what it refers to."""
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        tree = cls.folder / "tree"
        (tree / "empty").mkdir(parents=True)
        for name, text in (
            ("compose.yaml", SHOP),
            ("Checked", CHECKED),
            ("web.env", "# where\nWHERE='wide web'\n"),
            ("greeting", "hello\n"),
            ("token", "sesame-open-1"),
            ("tree/run", "#!/bin/sh\n"),
        ):
            (cls.folder / name).write_text(text)
        (tree / "run").chmod(0o640)
        os.chown(tree / "run", 33, 44)
        (tree / "link").symlink_to("run")
        with unittest.TestCase().assertRaisesRegex(ServiceNotRunningError, "'cache' is not runn"):
            _ = cls.stack["cache"].port
        super().setUpClass()

    def sh(self, name: str, command: str) -> str:
        """What a command in one of the services prints."""
        return self.stack[name].exec(["sh", "-c", command]).output

    def test_command_environment_and_order_are_the_files(self) -> None:
        """It starts when what it depends on is healthy, or has ended; names are host names."""
        web = self.stack["web-app"]
        self.assertNotIn("tools", self.stack)
        self.assertEqual("hello\nworld wide web\nPONG\n", web.logs())
        self.assertTrue(self.late.client.ping())
        self.assertEqual("", self.sh("checked", "ls /ready | grep -v ready"))

    def test_ports_are_free_ones_on_loopback(self) -> None:
        """The file's own may be taken."""
        cache = self.stack["cache"]
        with socket.create_connection((cache.host, cache.port_of(6379))) as client:
            client.sendall(b"PING\r\n")
            self.assertEqual(b"+PONG\r\n", client.recv(100))

    def test_networks_are_the_files_and_the_default_one_is_the_classs(self) -> None:
        """With aliases, also after a partition; who shares no network is not seen."""
        with self.stack["cache"].partitioned():
            self.assertEqual("", self.sh("web-app", "getent hosts store-room"))
        for name in ("store-room", "store", "shop-web", "there"):
            self.assertIn(name, self.sh("web-app", f"getent hosts {name}"))
        self.assertEqual("", self.sh("web-app", "getent hosts hidden"))
        self.assertIn("cache", self.sh("hidden", "getent hosts cache web-app store"))

    def test_a_volume_is_shared_and_begins_with_what_the_image_has_there(self) -> None:
        """It may be read-only for one of two; one without a name is there too; all are labelled."""
        self.assertEqual("made\n", self.sh("web-app", "cat /data/note"))
        self.assertIn("Read-only", self.sh("web-app", "touch /data/more"))
        self.assertEqual("redis-server\n", self.sh("hardened", "ls /programs | grep is-server"))
        self.assertEqual("", self.sh("hardened", "touch /work/x"))
        volumes = [it for it in left_of_this_process() if it.kind == "volume"]
        self.assertEqual(7, len([it for it in volumes if Label.CLASS in it.labels]))

    def test_a_bound_folder_is_as_it_is_here_and_stays_so(self) -> None:
        """Modes, owners, links, empty folders; what a service writes others see, not the host."""
        listed = self.sh("web-app", "cd /tree; stat -c '%n %a %u %g %F' run link empty; cat new")
        self.assertEqual(
            "run 640 33 44 regular file\nlink 777 0 0 symbolic link\n"
            f"empty {(self.folder / 'tree/empty').stat().st_mode & 0o777:o} 0 0 directory\nhers\n",
            listed,
        )
        self.assertFalse((self.folder / "tree" / "new").exists())
        self.assertEqual("hello\n", self.sh("hidden", "cat /tree/run"))
        self.assertIn("Read-only", self.sh("hidden", "touch /tree/new"))

    def test_secrets_and_configs_are_files(self) -> None:
        """With mode and owner; what is secret is in no log."""
        found = self.sh("web-app", "stat -c '%a %u' /run/secrets/token /etc/token; cat /etc/token")
        self.assertEqual("444 0\n440 5\nsesame-open-1", found)
        self.assertEqual("colour=red", self.sh("web-app", "cat /etc/settings"))
        self.assertIn("sesame-open-1", self.stack["web-app"].secrets())

    def test_limits_and_the_rest_are_in_force(self) -> None:
        """As the kernel tells them."""
        self.assertEqual("/srv\nbox\n", self.sh("web-app", "pwd; hostname"))
        locked = self.sh("web-app", "grep 'locked memory' /proc/1/limits").split()
        self.assertEqual(["65536", "131072"], locked[3:5])
        limit = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max"
        self.assertIn("100\n", self.sh("web-app", limit))
        self.assertEqual("1234\n", self.sh("web-app", "cat /proc/sys/net/core/somaxconn"))
        self.assertRegex(self.sh("web-app", "cat /proc/1/comm"), "^(docker|podman)-init$")
        self.assertEqual("700\n750\n", self.sh("web-app", "stat -c %a /small /scratch"))
        sizes = self.sh("web-app", "df -k --output=size /small /scratch").split()
        self.assertEqual(["1024", "16384"], sizes[1:])

    def test_a_service_that_is_read_only_has_its_files_all_the_same(self) -> None:
        """Copied ones and secrets, in a tmpfs as well; the rest of a folder is the image's."""
        seen = "cat /etc/greeting /run/secrets/token; grep -c root /etc/passwd; touch /run/it"
        self.assertEqual("hello\nsesame-open-11\n", self.sh("hardened", seen))
        for path in ("/x", "/etc/x", "/run/secrets/x"):
            self.assertIn("Read-only", self.sh("hardened", f"touch {path}"))
        self.assertIn("/dev/", self.sh("hardened", "readlink /proc/1/fd/0"))


class ComposeErrorsTest(LeakCheckedTestCase):
    """What a class is told that cannot be."""

    def error_of(self, text: str, *parts: str) -> None:
        """Expect these parts in the only error of a class with this file."""
        deadlines = mock.patch.dict(os.environ, ORCHESTRATOR_STARTUP_TIMEOUT="")
        with tempfile.TemporaryDirectory() as folder, deadlines:
            if text:
                (Path(folder) / "compose.yaml").write_text(text)
            stack = Compose(Path(folder) / "compose.yaml", startup_timeout=10)
            self.assert_cannot_start(*parts, stack=stack, cache=Redis())

    def test_a_class_that_cannot_be_is_told_when_it_starts(self) -> None:
        """A declaration reads no file; a name is a host name, and there is one of each."""
        self.error_of("", "DeclarationError", "compose.yaml cannot be read")
        self.error_of("services: {cache: {image: redis}}", "two services are called 'cache'")

    def test_a_dependency_that_cannot_be_met_is_told(self) -> None:
        """What fails is not complete, and what has no healthcheck is never healthy."""
        text = (
            "services:\n  web: {image: redis, depends_on: {job: {condition: %s}}}\n"
            "  job: {image: redis, entrypoint: [sh, -c, %s]}\n"
        )
        completed = text % ("service_completed_successfully", "'echo no luck; exit 3'")
        self.error_of(completed, "ServiceExitedError", "exited with exit code 3", "no luck")
        self.error_of(text % ("service_healthy", "sleep 600"), ":2: service 'web':", "healthcheck")
