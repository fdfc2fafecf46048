"""The contract of the python image, which `slowed` runs beside a service."""

from __future__ import annotations

from tests.contract.images.case import ImageTest

MODULES = "fcntl, heapq, itertools, os, pathlib, random, select, socket, struct, sys"


class PythonImageTest(ImageTest):
    """The contract of docker.io/library/python."""

    name = "python"

    def test_python3_is_on_the_path(self) -> None:
        """As root, of a version that can read `slow_link.py`, with all that it imports."""
        container = self.start("sleep", "60")
        asks = f"import {MODULES}; socket.AF_NETLINK; print(os.getuid(), *sys.version_info[:2])"
        user, major, minor = map(int, self.execute(container, "python3", "-c", asks).split())
        self.assertEqual(0, user)
        self.assertGreaterEqual((major, minor), (3, 10))
