"""R7: children of the owner neither reap its things nor hold up the reaping."""

from __future__ import annotations

import os
import signal

from tests.faults.case import FaultCase, repeated


class ForkTest(FaultCase):
    """Forked and multiprocessing children."""

    @repeated(20)
    def test_r07_children_that_end_do_not_reap(self) -> None:
        """R7 A forked child's sys.exit, and a terminate() at the fork, touch nothing."""
        owner = self.start("fork_exits")
        self.assertEqual([-signal.SIGTERM], owner.expect("ready")["statuses"])
        self.assert_untouched(owner)
        self.assert_ends(owner, 0, since=owner.go())

    @repeated(20)
    def test_r07_child_that_stays(self) -> None:
        """R7 A child forked behind Python's back, with every descriptor, holds up nothing."""
        owner = self.start("fork_in_c_stays")
        child = owner.expect("ready")["child"]
        self.addCleanup(os.kill, child, signal.SIGKILL)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        os.kill(child, 0)

    @repeated(10)
    def test_r07_child_with_a_session_of_its_own(self) -> None:
        """R7 A child owns what it creates: its death removes that, and nothing of its parent's."""
        owner = self.start("fork_owns")
        parent = owner.expect("parent")["session"]
        said = owner.expect("ready")
        self.assertNotEqual(parent, said["session"])
        os.kill(said["child"], signal.SIGKILL)
        self.daemon.wait_until_session_gone(said["session"])
        owner.session = parent
        self.assert_untouched(owner)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
