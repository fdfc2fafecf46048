"""pytest-django: the database runs before Django makes its test databases in it."""

import pytest
from shop.servers import database


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings):
    """Runs right before the databases are made; what pytest-django does there comes first."""
    with database():
        yield
