"""``ServicesMixin`` with real containers: when services live, and what each test sees."""

from __future__ import annotations

import pickle
import unittest
import unittest.mock
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import ServiceNotRunningError
from orchestrator.probes import LogLine
from tests.support.classes import LeakCheckedTestCase, left_of_this_process, run_class


class Remote(unittest.TestResult):
    """Sends what failed, with its test, to another process, as Django's parallel runner does."""

    sent = b""

    def __getstate__(self) -> object:
        """A result has no state of its own to send."""
        return {}

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:  # noqa: N802
        """Send it."""
        super().addSubTest(test, subtest, error)
        self.sent = pickle.dumps(subtest)


class Pickled:
    """What keeps a class from being found as a test."""

    class Test(ServicesMixin, unittest.TestCase):
        """Another process has to find it by its name."""

        cache = Redis()

        def test_it(self) -> None:
            """Fail in a part."""
            self.cache.client.ping()
            with self.subTest(number=1):
                self.fail("as wanted")


NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock"}


class MixinTest(LeakCheckedTestCase):
    """A test class is the unit: its services live exactly as long as it does."""

    def test_services_run_from_set_up_class_to_the_end_of_the_class(self) -> None:
        """SetUp, test, clean-ups and tearDown share one state; the next test has another."""
        prefixes: list[str] = []

        class Uses(ServicesMixin, unittest.TestCase):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                assert cls.cache.client.ping()

            def setUp(self) -> None:
                prefixes.append(self.cache.prefix)
                self.addCleanup(lambda: prefixes.append(self.cache.prefix))

            def tearDown(self) -> None:
                prefixes.append(self.cache.prefix)

            def test_one(self) -> None:
                prefixes.append(self.cache.prefix)

            test_two = test_one

        self.assert_passes(Uses)
        self.assertEqual([4, 4], [prefixes.count(prefix) for prefix in dict.fromkeys(prefixes)])
        with self.assertRaises(ServiceNotRunningError):
            _ = Uses.cache.port

    def test_what_is_done_out_of_order_is_an_error_that_says_so(self) -> None:
        """A forgotten super(), a service given too late, one used too early."""

        class Base(ServicesMixin, unittest.TestCase):
            def test_it(self) -> None:
                raise AssertionError("must not be reached")

        class Forgetful(Base):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                pass

        class Late(Base):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.cache = Redis()  # type: ignore[attr-defined]

        class Hasty(Base):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                cls.cache.client.ping()
                super().setUpClass()

        class Replaced(Base):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.cache = 1  # type: ignore[assignment]

        self.assert_error(Replaced, "Replaced.cache, a declared Redis, has been replaced by int")
        self.assert_error(Forgetful, "Forgetful.setUpClass does not call super().setUpClass()")
        self.assert_error(Late, "Late.cache was given to the class after", "cache = Redis(…)")
        self.assert_error(Hasty, "Hasty.cache is not running", "super().setUpClass() first")

    def test_subclasses_have_servers_of_their_own(self) -> None:
        """A service declared once runs for each class, unless that has one of the same name."""
        seen: list[str | None] = []

        class First(ServicesMixin, unittest.TestCase):
            cache = Redis()
            other = Redis(maxmemory="2mb")

            def test_it(self) -> None:
                seen.extend([self.cache.container_id, self.cache.password])
                seen.append(self.other.client.config_get("maxmemory")["maxmemory"])

        class Second(First):
            other = Redis(maxmemory="3mb")

        for cls in (First, Second):
            self.assert_passes(cls)
        self.assertEqual(6, len(set(seen)))

    def test_nothing_is_started_where_nothing_is_needed(self) -> None:
        """Neither for a class without services nor for one that is skipped."""

        class Plain(ServicesMixin, unittest.TestCase):
            def test_it(self) -> None: ...

        @unittest.skip("not today")
        class Skipped(Plain):
            cache = Redis()

        with unittest.mock.patch.dict("os.environ", NOWHERE):
            self.assert_passes(Plain)
            self.assertEqual(1, len(run_class(Skipped).skipped))

    def test_a_single_test_is_run_by_hand(self) -> None:
        """As a debugger does, or without a result of one's own; each has clean state."""

        class ByHand(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                assert self.cache.client.set("left", "over", nx=True)

        self.addCleanup(ByHand.doClassCleanups)
        ByHand.setUpClass()
        ByHand("test_it").debug()
        result = ByHand("test_it").run()
        assert result is not None
        self.assertEqual((1, True), (result.testsRun, result.wasSuccessful()))

    def test_a_test_is_pickled_while_it_runs(self) -> None:
        """With a subtest that failed, for the parent of a parallel runner."""
        result = Remote()
        unittest.TestSuite([Pickled.Test("test_it")]).run(result)
        self.assertEqual([], result.errors)
        self.assertIn("(number=1)", str(pickle.loads(result.sent)))  # noqa: S301 - our own


class FailedStartTest(LeakCheckedTestCase):
    """Whatever fails on the way, nothing is left."""

    def test_a_users_set_up_class_that_raises_leaves_nothing(self) -> None:
        """Class clean-ups remove the services when tearDownClass is never called."""

        class Raises(ServicesMixin, unittest.TestCase):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                raise RuntimeError("the user's own mistake")

            def test_it(self) -> None: ...

        self.assert_error(Raises, "the user's own mistake")
        self.assertEqual([], list(left_of_this_process()))

    def test_one_service_that_exits_takes_the_others_along(self) -> None:
        """A dead one is told with exit code, reason and last log lines; its sibling is removed."""

        class Dies(ServicesMixin, unittest.TestCase):
            cache = Redis()
            dead = Redis(memory="8m", command=["sh", "-c", "echo last words; exec tail /dev/zero"])

            def test_it(self) -> None: ...

        told = "for lack of memory"
        self.assert_error(Dies, "ServiceExitedError: dead: ", told, "last words")
        self.assertEqual([], list(left_of_this_process()))

    def test_no_daemon_is_an_error_that_says_what_to_run(self) -> None:
        """Or a skip, when ORCHESTRATOR_SKIP_WITHOUT_DOCKER=1 asks for that."""

        class Nowhere(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None: ...

        with unittest.mock.patch.dict("os.environ", NOWHERE):
            self.assert_error(Nowhere, "EngineUnavailableError", "systemctl start docker")
        skipping = {**NOWHERE, "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "1"}
        with unittest.mock.patch.dict("os.environ", skipping):
            result = run_class(Nowhere)
        self.assertEqual((1, []), (len(result.skipped), result.errors))


class FailureOutputTest(LeakCheckedTestCase):
    """A failed test is told what its services said meanwhile."""

    def test_the_time_span_is_right_when_the_daemons_clock_is_not_ours(self) -> None:
        """A machine an hour ahead of its daemon, or behind it; no password is shown."""
        for hours in (1, -1):

            class Shifted(datetime):
                @classmethod
                def now(cls, tz: tzinfo | None = None) -> Self:
                    return super().now(tz) + timedelta(hours=hours)  # noqa: B023 - used at once

            class Fails(ServicesMixin, unittest.TestCase):
                noisy = Container(
                    image="redis",
                    command=["sh", "-c", "echo early; sleep 1; echo up; sleep 60"],
                    probe=LogLine("up"),
                )
                cache = Redis(password="sesame-1001")

                def test_it(self) -> None:
                    self.noisy.exec(["sh", "-c", "echo late > /proc/1/fd/1"])
                    while "late" not in self.noisy.logs():
                        pass
                    with self.subTest("a failure, too"):
                        self.fail("as wanted")

            with (
                self.subTest(hours=hours),
                unittest.mock.patch("orchestrator.environment.diagnosis.datetime", Shifted),
                unittest.mock.patch("orchestrator.engine.docker.datetime", Shifted),
            ):
                text = self.assert_error(Fails, "as wanted", "noisy: ", "    late")
                self.assertNotIn("    early", text)
                self.assertNotIn("sesame", text)
