"""The contract of the python image, which `slowed` runs beside a service."""

from __future__ import annotations

from tests.contract.images.case import ImageTest


class PythonImageTest(ImageTest):
    """The contract of docker.io/library/python."""

    name = "python"

    def test_python3_is_on_the_path(self) -> None:
        """A version that can read `slow_link.py`, as root."""
        container = self.start("sleep", "60")
        told = self.execute(
            container, "python3", "-c", "import os, sys; print(os.getuid(), *sys.version_info[:2])"
        )
        user, major, minor = map(int, told.split())
        self.assertEqual(0, user)
        self.assertGreaterEqual((major, minor), (3, 10))

    def test_the_standard_library_is_whole(self) -> None:
        """All that `slow_link.py` imports is there."""
        container = self.start("sleep", "60")
        modules = "fcntl, heapq, itertools, os, pathlib, random, select, socket, struct"
        self.execute(container, "python3", "-c", f"import {modules}; socket.AF_NETLINK")
