"""What a person sees of a pull, and what became of one that failed."""

import unittest

from orchestrator.errors import EngineError
from orchestrator.images.failures import Failure, attempts_worth, classify, exit_status

# As daemons and registries really say it.
SAID = {
    'Get "http://127.0.0.1:5001/v2/": dial tcp: connect: connection refused': Failure.NETWORK,
    'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host': Failure.NETWORK,
    "unexpected EOF": Failure.NETWORK,
    "received unexpected HTTP status: 503 Service Unavailable": Failure.BUSY,
    "toomanyrequests: You have reached your pull rate limit": Failure.BUSY,
    "unauthorized: authentication required": Failure.DENIED,
    "pull access denied for x, repository does not exist or may require 'docker login'": (
        Failure.DENIED
    ),
    "manifest for x:1 not found: manifest unknown: manifest unknown": Failure.NOT_FOUND,
    "no matching manifest for linux/s390x in the manifest list entries": Failure.NOT_FOUND,
    "manifest verification failed for digest sha256:0": Failure.MISMATCH,
    "write /var/lib/docker/tmp/GetImageBlob1: no space left on device": Failure.DISK,
    "x509: certificate signed by unknown authority": Failure.UNTRUSTED,
    "http: server gave HTTP response to HTTPS client": Failure.UNTRUSTED,
    "something else": Failure.OTHER,
}


class ClassifyTest(unittest.TestCase):
    """`classify` and `exit_status`."""

    def test_text(self) -> None:
        """The daemon's words tell the kind."""
        for text, expected in SAID.items():
            with self.subTest(text):
                self.assertIs(expected, classify(EngineError(text)))

    def test_names_that_do_not_resolve(self) -> None:
        """A name nobody knows is tried once, a failed look-up twice, an outage often."""
        for expected, text in (
            (1, 'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host'),
            (1, "registry r, asked for a:1: the name r does not resolve: Name not known"),
            (2, 'Get "https://r/v2/": dial tcp: lookup r: Temporary failure in name resolution'),
            (2, "dial tcp: lookup r on 10.0.0.1:53: server misbehaving"),
            (5, "received unexpected HTTP status: 503 Service Unavailable"),
            (1, "unauthorized: authentication required"),
        ):
            with self.subTest(text):
                self.assertEqual(expected, attempts_worth(EngineError(text), most=5))

    def test_exit_status(self) -> None:
        """One kind has its own status, several have 1, none has 0."""
        self.assertEqual(0, exit_status([]))
        self.assertEqual(5, exit_status([Failure.NOT_FOUND, Failure.NOT_FOUND]))
        self.assertEqual(1, exit_status([Failure.NOT_FOUND, Failure.DENIED]))
