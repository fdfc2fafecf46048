"""``ServicesMixin`` with real containers: when services live, and what each test sees."""

import time
import unittest
import unittest.mock

from orchestrator import Redis, ServicesMixin
from orchestrator.errors import ServiceNotRunningError
from tests.support.classes import LeakCheckedTestCase, left_of_this_process, run_class

NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock"}


class MixinTest(LeakCheckedTestCase):
    """A class is the unit: its services live as long as it does; what fails leaves nothing."""

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
        """A forgotten super(), a service that is used too early."""

        class Base(ServicesMixin, unittest.TestCase):
            def test_it(self) -> None:
                raise AssertionError("must not be reached")

        class Forgetful(Base):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                pass

        class Hasty(Base):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                cls.cache.client.ping()
                super().setUpClass()

        self.assert_error(Forgetful, "Forgetful.setUpClass does not call super().setUpClass()")
        self.assert_error(Hasty, "Hasty.cache is not running", "super().setUpClass() first")

    def test_nothing_is_started_where_nothing_is_needed(self) -> None:
        """For a class without services."""

        class Plain(ServicesMixin, unittest.TestCase):
            def test_it(self) -> None: ...

        with unittest.mock.patch.dict("os.environ", NOWHERE):
            self.assert_passes(Plain)

    def test_many_tests_without_services(self) -> None:
        """What the mixin takes of each test of a class does not grow with their number."""
        seconds = {}
        for number in (50, 1000):
            tests = {f"test_{n}": lambda _: None for n in range(number)}
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(
                type("Many", (ServicesMixin, unittest.TestCase), tests)
            )
            began = time.process_time()
            suite.run(unittest.TestResult())
            seconds[number] = (time.process_time() - began) / number
        self.assertLess(seconds[1000], 6 * seconds[50])

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
        dead = Redis(memory="8m", command=["sh", "-c", "echo last words; exec tail /dev/zero"])
        told = "ServiceExitedError: dead: ", "for lack of memory", "last words"
        self.assert_cannot_start(*told, cache=Redis(), dead=dead)
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
