"""The base of all cases: owners, and the proof that nothing is left of them."""

import contextlib
import os
import signal
import time
import unittest
import uuid
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, TypeVar

from orchestrator.engine.api import Label
from tests.faults.daemon import Daemon
from tests.faults.process import OwnerProcess, wait_until_no_process_with

THOROUGH: Final = bool(os.environ.get("FAULTS_THOROUGH"))  # set by ci/faults
CONTAINERS: Final = 2 if THOROUGH else 1  # of an owner that says nothing else
_A_WHILE: Final = 120.0 if THOROUGH else 2.0  # seconds a watchdog stays around, and some more
_Function = TypeVar("_Function", bound="Callable[..., object]")


def repeated(times: int) -> Callable[[_Function], _Function]:
    """Have ``ci/faults`` run this case so often, because there is timing in it."""

    def mark(case: _Function) -> _Function:
        vars(case).update(repeated=times)
        return case

    return mark


class FaultCase(unittest.TestCase):
    """One way to end. Every test has a run of its own, and leaves nothing, pass or fail."""

    daemon: ClassVar[Daemon]
    image: ClassVar[str]
    ended: ClassVar[list[tuple[str, str]]]
    changes: ClassVar[Sequence[str]] = ()
    # Whether other processes can know an owner for dead. If so, the sweep of anybody who starts
    # on this machine may clean up for a layer that failed to.
    judged: ClassVar[bool] = False

    @classmethod
    def setUpClass(cls) -> None:
        """Make the throw-away image."""
        super().setUpClass()
        for number in (signal.SIGINT, signal.SIGHUP):
            # A shell's background jobs and nohup ignore these, and owners would inherit that.
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                cls.addClassCleanup(signal.signal, number, signal.SIG_IGN)
        cls.ended = []  # runs and sessions
        cls.daemon = cls.make_daemon()
        cls.addClassCleanup(cls.daemon.client.close)
        cls.image = cls.daemon.image(changes=cls.changes)
        cls.addClassCleanup(cls.daemon.remove_image, cls.image)

    @classmethod
    def make_daemon(cls) -> Daemon:
        """The daemon to use: the shared one."""
        return Daemon()

    def setUp(self) -> None:
        """Draw the run."""
        super().setUp()
        self.run_id = str(uuid.uuid4())
        self.seconds: list[float] = []  # what ci/faults reports
        # At the end of the class, after the check that nothing has appeared by then.
        self.addClassCleanup(self.daemon.remove_all, self.run_id)

    def start(
        self, ending: str, *, before: Sequence[str] = (), url: str | None = None, **options: object
    ) -> OwnerProcess:
        """Start an owner on our daemon, or on another address of it."""
        owner = OwnerProcess(
            ending,
            options={
                "image": self.image,
                "judged": self.judged,
                "containers": CONTAINERS,
                **options,
            },
            env={"ORCHESTRATOR_RUN": self.run_id, "DOCKER_HOST": url or self.daemon.url},
            before=before,
        )
        self.addCleanup(owner.close)
        return owner

    def started(self, ending: str, **options: object) -> OwnerProcess:
        """Start an owner, and wait until it has created everything."""
        owner = self.start(ending, **options)  # type: ignore[arg-type]
        owner.expect("ready")
        return owner

    def assert_ends(
        self, owner: OwnerProcess, status: int, *, since: float, at_once: bool = False
    ) -> None:
        """It ends with this status, and nothing is left of it (at once: when it has ended)."""
        self.assertEqual(status, owner.wait(), owner.errors())
        if at_once:
            self.assertEqual([], self.daemon.left(self.run_id), "left at the moment of its end")
        self.assert_nothing_left(owner, since=since)

    def assert_nothing_left(self, *owners: OwnerProcess, since: float) -> None:
        """Wait until nothing is left of the run; how long it took is kept.

        That its watchdogs end too, and that nothing has appeared by then, is checked at the end of
        the class. A watchdog waits up to a minute for creates that were never answered; ci/faults
        waits with it, ci/test only for the usual time, once for the class.
        """
        self.seconds.append(self.daemon.await_gone(self.run_id, since=since))
        self.ended.extend((self.run_id, owner.session) for owner in owners)

    @classmethod
    def tearDownClass(cls) -> None:
        """Nothing has come back."""
        deadline = time.monotonic() + _A_WHILE
        for _, session in cls.ended:
            left = max(0.0, deadline - time.monotonic())
            with contextlib.nullcontext() if THOROUGH else contextlib.suppress(AssertionError):
                wait_until_no_process_with(f"{Label.SESSION}={session}", seconds=left)
        appeared = [thing for run, _ in cls.ended for thing in cls.daemon.left(run)]
        assert not appeared, f"appeared after all: {appeared}"
        super().tearDownClass()

    def assert_untouched(self, owner: OwnerProcess, *, containers: int = CONTAINERS) -> None:
        """The owner's network and containers are all there."""
        left = self.daemon.left(owner.session, Label.SESSION)
        self.assertEqual(1, sum(name.startswith("network ") for name in left), left)
        self.assertEqual(containers, sum(name.startswith("container ") for name in left), left)
