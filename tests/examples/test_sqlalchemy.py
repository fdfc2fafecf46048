"""SQLAlchemy's ORM: insert, query, and rollback on a unique violation."""

import unittest

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Postgres, ServicesMixin


class Base(DeclarativeBase):
    """The application's tables."""


class Account(Base):
    """Somebody who may log in."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]


class AccountTest(ServicesMixin, unittest.TestCase):
    """The tables are made once; every test gets a copy of them to itself."""

    db = Postgres(migrate=Base.metadata.create_all)

    def setUp(self) -> None:
        """Begin with one account."""
        self.session = Session(self.db.engine)
        self.addCleanup(self.session.close)
        self.session.add(Account(email="ada@example.com", name="Ada"))
        self.session.commit()

    def test_unique_violation_rolls_everything_back(self) -> None:
        """A taken address is refused, and what stood in the same transaction goes with it."""
        self.session.add(Account(email="bob@example.com", name="Bob"))
        self.session.flush()
        self.session.add(Account(email="ada@example.com", name="Another Ada"))
        with self.assertRaisesRegex(IntegrityError, "accounts_email_key"):
            self.session.flush()
        self.session.rollback()

        names = self.session.scalars(select(Account.name)).all()
        self.assertEqual(["Ada"], names)

    def test_another_connection_sees_the_same_tables(self) -> None:
        """Every connection works in the test's own copy, whoever opened it."""
        with self.db.connect() as connection:
            row = connection.execute("select name from accounts").fetchone()
        self.assertEqual(("Ada",), row)
