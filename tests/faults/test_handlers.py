"""R18: other people's signal handlers are kept."""

from __future__ import annotations

import signal

from tests.faults.case import FaultCase, repeated


class HandlerTest(FaultCase):
    """Who else wants SIGTERM and SIGHUP."""

    @repeated(5)
    def test_r18_handler_that_ends_the_process(self) -> None:
        """R18 A program's own handler decides the status, and nothing is left."""
        owner = self.started("handled")
        self.assert_ends(owner, 7, since=owner.kill(signal.SIGTERM))

    @repeated(5)
    def test_r18_handler_that_chains_to_ours(self) -> None:
        """R18 A handler set later, which calls ours, is called."""
        owner = self.started("handled_later")
        since = owner.kill(signal.SIGTERM)
        owner.expect("theirs")
        self.assert_ends(owner, -signal.SIGTERM, since=since)

    @repeated(5)
    def test_r18_handler_that_goes_on(self) -> None:
        """R18 A program that takes note of SIGTERM and ignores SIGHUP keeps its services."""
        owner = self.started("goes_on")
        owner.kill(signal.SIGHUP)
        owner.kill(signal.SIGTERM)
        owner.expect("noted")
        self.assert_untouched(owner)
        self.assert_ends(owner, 0, since=owner.go())

    @repeated(5)
    def test_r18_after_an_event_loop(self) -> None:
        """R18 asyncio resets handlers when a loop ends; ours is back at the next create."""
        owner = self.started("after_asyncio")
        since = owner.kill(signal.SIGTERM)
        self.assert_ends(owner, -signal.SIGTERM, since=since, at_once=True)

    @repeated(5)
    def test_r18_faulthandler(self) -> None:
        """R18 faulthandler's handler, set in C, still dumps the stacks."""
        owner = self.started("with_faulthandler")
        owner.kill(signal.SIGTERM)
        owner.expect_error("most recent call first")
        self.assert_untouched(owner)
        self.assert_ends(owner, 0, since=owner.go())

    @repeated(5)
    def test_r18_session_owned_in_a_thread(self) -> None:
        """R18 Where no handler could be set, SIGTERM has its default action and nothing is left."""
        owner = self.started("in_a_thread")
        self.assert_ends(owner, -signal.SIGTERM, since=owner.kill(signal.SIGTERM))
