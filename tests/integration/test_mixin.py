"""``ServicesMixin`` with real containers: when services live, and what each test sees."""

from __future__ import annotations

import unittest
import unittest.mock
from datetime import datetime, timedelta, tzinfo
from typing import ClassVar, Self

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import ServiceNotRunningError
from orchestrator.probes import LogLine
from tests.support.classes import LeakCheckedTestCase, left_of_this_process, run_class


class MixinTest(LeakCheckedTestCase):
    """A test class is the unit: its services live exactly as long as it does."""

    def test_services_run_for_the_tests_and_are_gone_after_the_class(self) -> None:
        """Tests reach their server; the class's end removes it."""

        class Uses(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.assertTrue(self.cache.client.ping())

        self.assert_passes(Uses)
        with self.assertRaises(ServiceNotRunningError):
            _ = Uses.cache.port

    def test_the_users_set_up_class_sees_running_services(self) -> None:
        """After super().setUpClass() services are there, also through the class."""

        class Early(ServicesMixin, unittest.TestCase):
            cache = Redis(isolation="none")

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.cache.client.set("early", "bird")

            def test_it(self) -> None:
                self.assertEqual(b"bird", self.cache.client.get("early"))

        self.assert_passes(Early)

    def test_set_up_and_tear_down_of_the_user_see_the_tests_state(self) -> None:
        """setUp, the test, clean-ups and tearDown share one state; the next test has another."""
        prefixes: list[str] = []

        class Hooks(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def setUp(self) -> None:
                prefixes.append(self.cache.prefix)
                self.addCleanup(lambda: prefixes.append(self.cache.prefix))

            def tearDown(self) -> None:
                prefixes.append(self.cache.prefix)

            def test_one(self) -> None:
                prefixes.append(self.cache.prefix)

            def test_two(self) -> None:
                prefixes.append(self.cache.prefix)

        self.assert_passes(Hooks)
        self.assertEqual([4, 4], [prefixes.count(prefix) for prefix in dict.fromkeys(prefixes)])

    def test_a_forgotten_super_says_exactly_that(self) -> None:
        """A setUpClass of one's own without super() is told by its name."""

        class Forgetful(ServicesMixin, unittest.TestCase):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                pass

            def test_it(self) -> None:
                self.fail("must not be reached")

        self.assert_error(Forgetful, "Forgetful.setUpClass does not call super().setUpClass()")

    def test_a_service_given_to_the_class_too_late_is_told(self) -> None:
        """After super().setUpClass() nothing is started any more."""

        class Late(ServicesMixin, unittest.TestCase):
            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()
                cls.cache = Redis()  # type: ignore[attr-defined]

            def test_it(self) -> None: ...

        self.assert_error(Late, "Late.cache was given to the class after", "cache = Redis(…)")

    def test_a_service_used_before_super_says_when_it_runs(self) -> None:
        """Using a service first and calling super() later is told."""

        class Hasty(ServicesMixin, unittest.TestCase):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                cls.cache.client.ping()
                super().setUpClass()

            def test_it(self) -> None: ...

        self.assert_error(Hasty, "Hasty.cache is not running", "super().setUpClass() first")

    def test_two_subclasses_have_servers_of_their_own(self) -> None:
        """A service declared once in a base runs once for each class."""
        ports: list[int] = []

        class Base(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                ports.append(self.cache.port)

        class First(Base): ...

        class Second(Base): ...

        self.assert_passes(First)
        self.assert_passes(Second)
        self.assertEqual(2, len(ports))

    def test_a_subclass_overrides_a_service_by_its_name(self) -> None:
        """The subclass's declaration counts."""

        class Base(ServicesMixin, unittest.TestCase):
            cache = Redis()

        class Small(Base):
            cache = Redis(maxmemory="3mb")

            def test_it(self) -> None:
                limit = self.cache.client.config_get("maxmemory")
                self.assertEqual({"maxmemory": str(3 << 20)}, limit)

        self.assert_passes(Small)

    def test_asyncio_tests_have_services_and_clean_state(self) -> None:
        """IsolatedAsyncioTestCase works unchanged, asyncSetUp included."""

        class Async(ServicesMixin, unittest.IsolatedAsyncioTestCase):
            cache = Redis()

            async def asyncSetUp(self) -> None:
                await self.cache.async_client.set("a", "1")
                self.addAsyncCleanup(self.cache.async_client.aclose)

            async def test_one(self) -> None:
                self.assertEqual(b"1", await self.cache.async_client.get("a"))
                await self.cache.async_client.set("b", "2")

            async def test_two(self) -> None:
                self.assertIsNone(await self.cache.async_client.get("b"))

        self.assert_passes(Async)

    def test_a_class_without_services_needs_no_daemon(self) -> None:
        """The mixin alone costs nothing."""

        class Plain(ServicesMixin, unittest.TestCase):
            def test_it(self) -> None:
                self.assertEqual(2, 1 + 1)

        with unittest.mock.patch.dict("os.environ", DOCKER_HOST="unix:///nowhere.sock"):
            self.assert_passes(Plain)

    def test_skipped_tests_run_nothing(self) -> None:
        """A skipped class starts no container, a skipped test needs no state."""

        @unittest.skip("not today")
        class Skipped(ServicesMixin, unittest.TestCase):
            missing = Container(image="127.0.0.1:1/no/such:image")

            def test_it(self) -> None: ...

        self.assertEqual(1, len(run_class(Skipped).skipped))

    def test_run_without_a_result_makes_one(self) -> None:
        """As unittest's own: whoever runs a single test by hand gets its result."""

        class ByHand(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.cache.client.ping()

        self.addCleanup(ByHand.doClassCleanups)
        ByHand.setUpClass()
        result = ByHand("test_it").run()
        assert result is not None
        self.assertEqual((1, True), (result.testsRun, result.wasSuccessful()))

    def test_debug_gives_clean_state_too(self) -> None:
        """A debugger's way of running one test works."""

        class Debugged(ServicesMixin, unittest.TestCase):
            cache = Redis()
            seen: ClassVar[list[bool]] = []

            def test_it(self) -> None:
                self.seen.append(bool(self.cache.client.ping()))

        Debugged.setUpClass()
        try:
            Debugged("test_it").debug()
        finally:
            Debugged.doClassCleanups()
        self.assertEqual([True], Debugged.seen)


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
        """A dead service is told with exit code and last log lines; its sibling is removed."""

        class Dies(ServicesMixin, unittest.TestCase):
            cache = Redis()
            dead = Redis(command=["sh", "-c", "echo last words; exit 3"])

            def test_it(self) -> None: ...

        self.assert_error(Dies, "ServiceExitedError", "dead exited with exit code 3", "last words")
        self.assertEqual([], list(left_of_this_process()))

    def test_a_service_that_never_answers_is_told_at_its_deadline(self) -> None:
        """The error says probe, seconds, attempts and the last problem."""

        class Mute(ServicesMixin, unittest.TestCase):
            cache = Redis(command=["sleep", "60"], startup_timeout=0.5)

            def test_it(self) -> None: ...

        self.assert_error(Mute, "ServiceNotReadyError", "cache is not ready", "attempts")

    def test_out_of_memory_is_told_as_such(self) -> None:
        """The kernel's kill is named, not only the exit code."""

        class Hungry(ServicesMixin, unittest.TestCase):
            cache = Redis(memory="8m", command=["sh", "-c", "exec tail /dev/zero"])

            def test_it(self) -> None: ...

        self.assert_error(Hungry, "killed for lack of memory (OOM)", "exit code 137")

    def test_no_daemon_is_an_error_that_says_what_to_run(self) -> None:
        """Without a daemon the class fails, readably."""

        class Nowhere(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None: ...

        with unittest.mock.patch.dict("os.environ", DOCKER_HOST="unix:///nowhere.sock"):
            self.assert_error(Nowhere, "EngineUnavailableError", "systemctl start docker")

    def test_no_daemon_is_a_skip_when_the_user_says_so(self) -> None:
        """ORCHESTRATOR_SKIP_WITHOUT_DOCKER=1 skips the class."""

        class Nowhere(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None: ...

        environ = {
            "DOCKER_HOST": "unix:///nowhere.sock",
            "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "1",
        }
        with unittest.mock.patch.dict("os.environ", environ):
            result = run_class(Nowhere)
        self.assertEqual((1, []), (len(result.skipped), result.errors))

    def test_an_unlocked_image_is_refused_before_anything_is_made(self) -> None:
        """The error names the image and the command that locks it."""

        class Loose(ServicesMixin, unittest.TestCase):
            web = Container(image="nginx:1.27-alpine")

            def test_it(self) -> None: ...

        self.assert_error(Loose, "ImageNotLockedError", "orchestrator lock")


class FailureOutputTest(LeakCheckedTestCase):
    """A failed test is told what its services said meanwhile."""

    def test_a_failure_carries_info_and_logs_of_its_time_span_only(self) -> None:
        """The note has what was logged during the test, not before."""

        class Fails(ServicesMixin, unittest.TestCase):
            noisy = Container(
                image="redis",
                command=["sh", "-c", "echo early; while read line; do echo $line; done < /tmp/in"],
                files={"/tmp/in": b"late\n"},
            )

            @classmethod
            def setUpClass(cls) -> None:
                super().setUpClass()

            def test_it(self) -> None:
                self.fail("as wanted")

        text = self.assert_error(Fails, "as wanted", "Services during this test", "noisy: image=")
        self.assertNotIn("    early", text)

    def test_the_time_span_is_right_when_the_daemons_clock_is_not_ours(self) -> None:
        """A machine an hour ahead of its daemon, or behind it, cuts the log at the same place."""
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

                def test_it(self) -> None:
                    self.noisy.exec(["sh", "-c", "echo late > /proc/1/fd/1"])
                    while "late" not in self.noisy.logs():
                        pass
                    self.fail("as wanted")

            with (
                self.subTest(hours=hours),
                unittest.mock.patch("orchestrator.environment.diagnosis.datetime", Shifted),
                unittest.mock.patch("orchestrator.engine.docker_watching.datetime", Shifted),
            ):
                text = self.assert_error(Fails, "as wanted", "    late")
                self.assertNotIn("    early", text)

    def test_a_failure_never_shows_the_password(self) -> None:
        """Secrets are masked in the note."""
        passwords: list[str] = []

        class Fails(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                passwords.append(self.cache.password or "")
                self.fail("as wanted")

        text = self.assert_error(Fails, "as wanted")
        self.assertNotIn(passwords[0], text)

    def test_a_failed_subtest_carries_the_note(self) -> None:
        """Subtests are failures too."""

        class Fails(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                with self.subTest("part"):
                    self.fail("as wanted")

        self.assert_error(Fails, "Services during this test")

    def test_a_service_that_dies_during_a_test_is_told(self) -> None:
        """The next test's error says that the service ended, with its exit code."""

        class Killed(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                running = self.cache.running
                running.engine.kill_container(running.container)

            def test_next(self) -> None: ...

        result = run_class(Killed)
        self.assertIn("cache exited with exit code 137", result.errors[0][1])
