"""A filter before the daemon's socket, which forbids some questions."""

from __future__ import annotations

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase
from tests.faults.process import wait_until_no_process_with
from tests.faults.proxy import CUT, Proxy, answer, forbidding


class FilteredTest(FaultCase):
    """What can be listed is removed."""

    def test_watchdog(self) -> None:
        """The watchdog of a killed owner removes what it may list, the rest by name, and ends.

        A kind that fails to be listed it asks for again, longer than for what is forbidden.
        """
        forbidden = forbidding("GET /volumes", "GET /images/", "GET /containers/json")
        failing = [answer(500, "no such mount")] * 8
        killed: list[bool] = []

        def instead(line: str) -> bytes | None:
            if killed and failing and "/networks?" in line:
                return failing.pop()
            return forbidden(line)

        proxy = self.enterContext(Proxy(self.daemon.url, instead=instead))
        owner = self.started("wait", url=proxy.url)
        killed.append(True)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        self.assertEqual([], failing)
        wait_until_no_process_with(f"{Label.SESSION}={owner.session}", seconds=10)

    def test_exit_handler(self) -> None:
        """A process that ends also removes, by its name, what may not be listed."""
        proxy = self.enterContext(Proxy(self.daemon.url, instead=forbidding("GET /networks?")))
        owner = self.started("normal", url=proxy.url)
        self.assert_ends(owner, 0, since=owner.go())
        self.assertNotIn("left behind", owner.errors())

    def test_one_connection_is_cut(self) -> None:
        """An exit handler that loses a connection goes on, and has nothing to say."""
        cuts = [CUT]
        proxy = self.enterContext(
            Proxy(
                self.daemon.url,
                instead=lambda line: (
                    cuts.pop() if cuts and ended and "/networks?" in line else None
                ),
            )
        )
        ended: list[bool] = []
        owner = self.started("normal", url=proxy.url)
        ended.append(True)
        self.assert_ends(owner, 0, since=owner.go())
        self.assertEqual(([], ""), (cuts, owner.errors()))
