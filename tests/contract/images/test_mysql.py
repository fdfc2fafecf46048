"""The contract of the mysql image."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.contract.images.case import ImageTest

ROOT = {"MYSQL_ROOT_PASSWORD": 'it\'s a "secret" \\ `word`'}
QUERY = "select concat('cpu', 'la') as it"


class MysqlImageTest(ImageTest):
    """The contract of docker.io/library/mysql."""

    name = "mysql"

    def client(self, *arguments: str, password: str = ROOT["MYSQL_ROOT_PASSWORD"]) -> list[str]:
        """Return the command of a client that comes over TCP, as other hosts do."""
        return ["mysql", "--host=127.0.0.1", f"--password={password}", *arguments]

    def ready(self, container: str) -> None:
        """Wait for an answer over TCP."""
        probe = self.client("--user=root", "--execute=select 1")
        self.eventually(lambda: self.answers(container, *probe), container)

    def test_refuses_to_start_without_a_password(self) -> None:
        """The container ends, and says which variable it wants."""
        container = self.start()
        self.assertEqual(1, self.wait_exit(container))
        self.assertIn("MYSQL_ROOT_PASSWORD", self.logs(container))

    def test_makes_database_and_user(self) -> None:
        """MYSQL_DATABASE is made, and MYSQL_USER may use it; passwords need no escaping."""
        user = {"MYSQL_DATABASE": "shop", "MYSQL_USER": "clerk", "MYSQL_PASSWORD": "o'clock"}
        container = self.start(env=ROOT | user)
        self.ready(container)
        asks = self.client("--user=clerk", f"--execute={QUERY}", "shop", password="o'clock")
        self.assertIn("cpula", self.execute(container, *asks))

    def test_runs_init_files_before_it_is_on_the_network(self) -> None:
        """The files' work is there when TCP answers for the first time."""
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o755)
            (Path(directory) / "1.sql").write_text("create table first_one (id int);")
            (Path(directory) / "2.sql").write_text("insert into first_one values (7);")
            container = self.start(
                env=ROOT | {"MYSQL_DATABASE": "shop"},
                options=(f"--volume={directory}:/docker-entrypoint-initdb.d:ro",),
            )
            self.ready(container)
            asks = self.client("--user=root", "--execute=select * from first_one", "shop")
            self.assertIn("7", self.execute(container, *asks))

    def test_arguments_go_to_the_server(self) -> None:
        """Arguments that begin with a dash are the server's."""
        container = self.start("--max-connections=17", env=ROOT)
        self.ready(container)
        asks = self.client("--user=root", "--execute=select @@max_connections")
        self.assertIn("17", self.execute(container, *asks))
