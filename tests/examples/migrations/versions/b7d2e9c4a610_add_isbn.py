"""Books have an ISBN."""

import sqlalchemy as sa
from alembic import op

revision = "b7d2e9c4a610"
down_revision = "a31f08c5d7e2"


def upgrade() -> None:
    """Add the column; what is already there has none."""
    op.add_column("books", sa.Column("isbn", sa.Text, unique=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("books", "isbn")
