"""`pull` behind a registry that fails, stalls, cuts, lies and answers 429."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from orchestrator.images.retry import Retry
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.image_case import ImageTestCase, Ran
from tests.support.registries import Registry, registry
from tests.support.tiny_images import tiny_image


class PullFaultsTest(ImageTestCase):
    """The pull command when the registry misbehaves."""

    proxy: FaultProxy

    @classmethod
    @contextlib.contextmanager
    def start_registry(cls) -> Iterator[Registry]:
        """A registry with the proxy in front; images are pushed past the proxy."""
        with tempfile.TemporaryDirectory() as folder, registry(Path(folder)) as found:
            yield found

    def setUp(self) -> None:
        """Put a new proxy in front, and shorten the pauses."""
        super().setUp()
        self.proxy = self.enterContext(fault_proxy(self.registry.host))
        self.enterContext(mock.patch.object(Retry, "pause", return_value=0.01))
        self.built = tiny_image(content=b"x" * 4096)
        self.image = self.push(self.built, host=self.proxy.host)
        self.write_lock(self.image)

    def pull(self, *faults: Fault, seconds: str = "60") -> Ran:
        """Pull with these faults."""
        self.proxy.faults = list(faults)
        return self.command("pull", env={"ORCHESTRATOR_ENGINE_TIMEOUT": seconds})

    def assert_fails(self, status: int, text: str, ran: Ran) -> None:
        """The pull failed in this way, left nothing, and succeeds when run again."""
        self.assertEqual(status, ran.status, ran)
        self.assertIn(text, ran.err)
        self.assertNotIn("Traceback", ran.err)
        for name in (self.image.reference.tagged, self.image.reference.pinned, self.built.config):
            self.assertIsNone(self.engine.images.find(name))
        self.assert_succeeds(self.pull())

    def assert_succeeds(self, ran: Ran) -> None:
        """The pull succeeded and what is here is the locked image."""
        self.assertEqual(0, ran.status, ran)
        found = self.engine.images.find(self.image.reference.tagged)
        assert found
        self.assertEqual(self.built.config, found.id)

    def test_server_error_passes(self) -> None:
        """A 503 is tried again, and each failure is one line."""
        ran = self.pull(Fault(path="/manifests/", status=503, times=2))
        self.assert_succeeds(ran)
        self.assertIn("trying again in 0.0 s (2 of 5)", ran.err)

    def test_server_error_stays(self) -> None:
        """A registry that stays broken ends with status 8 after five tries."""
        ran = self.pull(Fault(path="/manifests/", status=503, times=1000))
        self.assertIn("(5 of 5)", ran.err)
        self.assertNotIn("(6 of", ran.err)
        self.assert_fails(8, "503", ran)

    def test_rate_limit_passes(self) -> None:
        """A 429 is tried again."""
        body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}'
        self.assert_succeeds(self.pull(Fault(path="/manifests/", status=429, body=body, times=2)))

    def test_rate_limit_stays(self) -> None:
        """A limit that stays ends with status 8 and the advice to log in or use a mirror."""
        body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}'
        ran = self.pull(Fault(path="/manifests/", status=429, body=body, times=1000))
        self.assert_fails(8, "ORCHESTRATOR_REGISTRY_MIRROR", ran)

    def test_unauthorized_is_not_tried_again(self) -> None:
        """A 401 ends at once, with status 4 and the advice to log in."""
        body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        ran = self.pull(Fault(path="/manifests/", status=401, body=body, times=1000))
        self.assertNotIn("trying again", ran.err)
        self.assert_fails(4, "docker login", ran)

    def test_not_found_is_not_tried_again(self) -> None:
        """A 404 ends at once, with status 5."""
        body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        ran = self.pull(Fault(path="/manifests/", status=404, body=body, times=1000))
        self.assertNotIn("trying again", ran.err)
        self.assert_fails(5, "manifest unknown", ran)

    def test_cut_before_answer(self) -> None:
        """A connection that is cut before the answer is tried again."""
        self.assert_succeeds(self.pull(Fault(path="/manifests/", cut=True, times=2)))

    def test_cut_manifest(self) -> None:
        """A manifest that is cut off is tried again."""
        self.assert_succeeds(self.pull(Fault(path="/manifests/", cut=True, after=50, times=2)))

    def test_cut_layer(self) -> None:
        """A layer that is cut off comes whole in the end."""
        self.assert_succeeds(self.pull(Fault(path="/blobs/", cut=True, after=30)))

    def test_stalled_answer(self) -> None:
        """A registry that accepts and says nothing counts as failed after the engine's timeout."""
        ran = self.pull(Fault(stall=True, times=1000), seconds="1")
        self.proxy.over.set()
        self.proxy.over = threading.Event()
        self.assert_fails(3, "did not answer within 1 s", ran)

    def test_stalled_layer(self) -> None:
        """A layer that stops coming counts as failed after the engine's timeout."""
        ran = self.pull(Fault(path="/blobs/", stall=True, after=30, times=1000), seconds="1")
        self.proxy.over.set()
        self.proxy.over = threading.Event()
        self.assert_fails(3, "did not answer within 1 s", ran)

    def test_other_manifest(self) -> None:
        """A manifest with other bytes than the locked digest is refused, with status 6."""
        other = tiny_image().manifest
        ran = self.pull(Fault(path="/manifests/", swap=other, times=1000))
        self.assert_fails(6, "other bytes than the locked ones", ran)

    def test_other_layer(self) -> None:
        """A layer with other bytes than its digest is refused."""
        layer = next(digest for digest in self.built.blobs if digest != self.built.config)
        ran = self.pull(Fault(path=f"/blobs/{layer}", corrupt=True, times=1000))
        self.assert_fails(6, "verification failed", ran)

    def test_nobody_listens(self) -> None:
        """A registry that is not there ends with status 3."""
        image = self.push(host="127.0.0.1:9")
        self.write_lock(image)
        ran = self.command("pull", "--attempts", "2")
        self.assertEqual(3, ran.status, ran)
        self.assertIn("connection refused", ran.err)
        self.assertIn("Check the network", ran.err)

    def test_several_kinds(self) -> None:
        """Failures of several kinds end with status 1, each with its own line."""
        absent = self.push(name="absent", host="127.0.0.1:9")
        gone = self.push(name="gone")
        self.registry.pusher.delete(gone.reference.repository, str(gone.digest))
        self.write_lock(absent, gone, self.image)
        ran = self.pull()
        self.assertEqual(1, ran.status, ran)
        self.assertEqual(2, ran.err.count("FAILED"))
        self.assertIn("3 images: 1 pulled", ran.out)
