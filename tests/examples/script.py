"""No test at all: a scratch database, for as long as the block lasts."""

from orchestrator import Postgres

if __name__ == "__main__":
    with Postgres() as db, db.engine.connect() as connection:
        for query in ("select 6 * 7", "select jsonb_path_query('[1, 2]', '$[1]')"):
            print(query, "=>", connection.exec_driver_sql(query).scalar_one())  # noqa: T201
