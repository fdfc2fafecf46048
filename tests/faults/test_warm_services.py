"""What a class finds on servers that were kept warm: nothing of the class before, migrated once."""

from __future__ import annotations

from tests.faults.warm_case import WarmTestCase

_THREE = """
    import os, sys, unittest
    from orchestrator import Kafka, Postgres, Redis, ServicesMixin
    from sqlalchemy import text

    def migrate(engine):
        with open("migrated", "a") as file:
            print(os.getpid(), file=file)
        with engine.begin() as connection:
            connection.execute(text("create table migrated(id int)"))

    class ThreeTest(ServicesMixin, unittest.TestCase):
        db = Postgres(migrate=migrate, roles=["app"])
        cache = Redis(users={"app": "~* +@all"})
        events = Kafka(security="sasl_plaintext")

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            print("served by", cls.cache.container_id, file=sys.stderr)
            with cls.db.connect() as connection:
                tables = connection.execute(
                    "select relname from pg_class where relkind = 'r' and oid >= 16384"
                ).fetchall()
                assert tables == [("migrated",)], tables
                logins = connection.execute(
                    "select rolname from pg_roles where oid >= 16384 order by 1"
                ).fetchall()
                assert logins == [("app",)], logins
                connection.execute("create table trace()")
                connection.execute("create role trace")
            assert cls.cache.client.dbsize() == 0, cls.cache.client.keys()
            assert "trace" not in cls.cache.client.acl_users()
            cls.cache.client.set("trace", 1)
            cls.cache.client.acl_setuser("trace")
            topics = [it for it in cls.events.admin.list_topics() if not it.startswith("__")]
            assert topics == [], topics
            cls.events.topic("trace")

        def test_all_of_it_works(self):
            with self.db.as_role("app").connect() as connection:
                connection.execute("select 1")
            self.cache.as_user("app").client.ping()
            topic = self.events.topic("orders")
            with self.events.producer() as producer:
                producer.send(topic, b"paid")
            self.assertEqual(b"paid", self.events.consume(topic)[0].value)

    if __name__ == "__main__":
        unittest.main()
"""


class EveryServiceTest(WarmTestCase):
    """Postgres, Redis and Kafka; a file that is run as a script."""

    def test_nothing_of_the_class_before_and_migrated_once_for_each(self) -> None:
        """No table, key, topic, login or setting of the run before; the taker does not migrate."""
        self.write("test_warm.py", _THREE)
        self.serve("test_warm.py")
        keeper = self.keeper()
        kept = self.kept(keeper["session"])
        self.assertIn(self.serve("test_warm.py"), kept)
        migrated = (self.folder / "migrated").read_text().split()
        self.assertEqual(2, len(migrated), "the second run took what the keeper had migrated")
        self.assertEqual(str(keeper["pid"]), migrated[1])
