"""The contract of the mysql image."""

from __future__ import annotations

from tests.contract.images.case import ImageTest

PASSWORD = 'it\'s a "secret" \\ `word`'


class MysqlImageTest(ImageTest):
    """The contract of docker.io/library/mysql."""

    name = "mysql"

    def asks(self, statement: str, user: str = "root", password: str = PASSWORD) -> list[str]:
        """Return the command of a client that comes over TCP, as other hosts do."""
        login = [f"--user={user}", f"--password={password}"]
        return ["mysql", "--host=127.0.0.1", *login, f"--execute={statement}", "shop"]

    def test_refuses_to_start_without_a_password(self) -> None:
        """The container ends, and says which variable it wants."""
        self.assert_ends(self.start(), "MYSQL_ROOT_PASSWORD", status=1)

    def test_makes_what_it_is_told(self) -> None:
        """A database, a user for it, and what init files do, before TCP answers; then the server.

        Passwords need no escaping, and arguments that begin with a dash are the server's.
        """
        files = {
            "1.sql": b"create table first_one (id int);",
            "2.sql": b"insert into first_one values (7);",
        }
        container = self.start(
            "--max-connections=17",
            options=(self.folder(files, "/docker-entrypoint-initdb.d"),),
            env={
                "MYSQL_ROOT_PASSWORD": PASSWORD,
                "MYSQL_DATABASE": "shop",
                "MYSQL_USER": "clerk",
                "MYSQL_PASSWORD": "o'clock",
            },
        )
        self.eventually(lambda: self.answers(container, *self.asks("select 1")), container)
        rows = "select id, concat('cpu', 'la'), @@max_connections from first_one"
        told = self.execute(container, *self.asks(rows, "clerk", "o'clock"))
        self.assertEqual(["7", "cpula", "17"], told.splitlines()[-1].split())
