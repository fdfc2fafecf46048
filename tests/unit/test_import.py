"""Importing orchestrator, and a test module that declares services, costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import unittest

_DECLARATIONS = """
    import unittest
    from orchestrator import Container, Kafka, Postgres, Redis, ServicesMixin
    from orchestrator.probes import Http, LogLine

    class EverythingTest(ServicesMixin, unittest.TestCase):
        db = Postgres(isolation="database", migrate=print, init=["/nowhere/at-all.sql"])
        cache = Redis(maxmemory="2mb", maxmemory_policy="allkeys-lru")
        events = Kafka(memory="512m", depends_on=[db])
        web = Container(image="nginx:1.27-alpine", ports=[80], probe=Http("/"))
        job = Container(image="busybox:1.36", probe=LogLine("done"), files={"/a": "/nowhere"})

        def test_nothing(self): ...
"""
# Counts, from here on, what a program does to the world outside of itself.
_WATCH = """
    import json, sys

    before, deeds = set(sys.modules), []

    def watch(event, arguments):
        if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn")):
            deeds.append(event)
        if event == "open":
            path, mode, _ = arguments
            reads_code = str(path).endswith((".py", ".pyc", ".so"))
            if not reads_code or set(mode or "") & set("wax+"):
                deeds.append(f"open {path}")

    sys.addaudithook(watch)
"""
_TELL = """
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    foreign = sorted(loaded - sys.stdlib_module_names - {"orchestrator"})
    print(json.dumps({"foreign": foreign, "loaded": sorted(loaded), "deeds": deeds}))
"""


class ImportTest(unittest.TestCase):
    """Each in a Python of its own, as this one has everything loaded."""

    def test_declaring_loads_and_does_nothing(self) -> None:
        """No driver, nothing heavy of the standard library; no network, file or process."""
        found = told(_DECLARATIONS)
        self.assertEqual([], found["foreign"])
        heavy = {"asyncio", "concurrent", "http", "ssl", "subprocess", "tempfile"}
        self.assertEqual(set(), heavy & set(found["loaded"]))
        self.assertEqual([], found["deeds"])

    def test_every_public_name_is_there(self) -> None:
        """What `__all__` promises can be imported without a third-party module."""
        self.assertEqual([], told("from orchestrator import *")["foreign"])

    def test_an_engine_loads_no_paramiko(self) -> None:
        """Half of docker-py's import is for addresses that few have; it works there without."""
        code = """
            import sys
            from types import ModuleType
            sys.modules["paramiko"] = ModuleType("paramiko")
            from orchestrator.engine.docker import Engine
            assert "docker.transport.sshconn" not in sys.modules
            import docker
            docker.APIClient("ssh://me@far", version="1.40", use_ssh_client=True).close()
            assert "docker.transport.sshconn" in sys.modules
        """
        self.assertIn("docker", told(code)["foreign"])

    def test_the_check_sees_modules_and_deeds(self) -> None:
        """The other tests here would notice docker-py, a socket and a file."""
        with tempfile.NamedTemporaryFile() as file:
            code = f"import docker, socket; socket.socket().close(); open({file.name!r}).close()"
            found = told(code)
            self.assertIn("docker", found["foreign"])
            self.assertLessEqual({"socket.__new__", f"open {file.name}"}, set(found["deeds"]))


def told(code: str) -> dict[str, list[str]]:
    """What some code loads and does, in a new Python."""
    script = "\n".join(map(textwrap.dedent, (_WATCH, code, _TELL)))
    done = subprocess.run(  # -B: the first import would write byte code
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer
