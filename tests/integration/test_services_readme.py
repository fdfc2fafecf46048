"""``services/README.md``: its page on a new service, run as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.processes import ProcessTestCase

PAGE = Path(__file__).parents[2] / "src" / "orchestrator" / "services" / "README.md"
SERVICE, USE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

FAULTS = """
    import pymysql
    import mysql
    import test_orders


    class Telling(mysql.MySQL):
        def server_info(self):
            return {"server": self.running.password}


    class FaultsTest(test_orders.OrdersTest):
        db = Telling()

        def test_faults(self):
            with self.db.connect() as connection:
                connection.cursor().execute("create table t (id int)")
            with self.db.paused(), self.assertRaises(pymysql.OperationalError):
                self.db.connect()
            self.db.kill()
            with self.assertRaises(pymysql.OperationalError):
                self.db.connect()
            self.db.restart()
            with self.db.connect() as connection, connection.cursor() as cursor:
                self.assertEqual(1, cursor.execute("show tables"))

        def test_password(self):
            self.fail()
"""


class ServicesReadmeTest(ProcessTestCase):
    """Adding a service is one small file."""

    def test_the_pages_service_runs_lives_through_faults_and_hides_its_password(self) -> None:
        """Its two blocks, as files, are a test that passes; and it has every fault there is."""
        self.assertLessEqual(len(SERVICE.splitlines()), 60)
        self.write("mysql.py", SERVICE)
        self.write("test_orders.py", USE)
        self.write("test_faults.py", FAULTS)
        argv = ("-W", "error", "-m", "unittest", "-v", "test_faults")
        status, output = self.run_python(*argv)
        self.assertEqual(1, status, output)
        self.assertIn("Ran 4 tests", output)
        self.assertIn("FAILED (failures=1)", output)
        self.assertIn("db: *** at ", output)
