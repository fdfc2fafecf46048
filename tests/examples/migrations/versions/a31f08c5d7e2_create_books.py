"""Create the table of books."""

import sqlalchemy as sa
from alembic import op

revision = "a31f08c5d7e2"
down_revision = None


def upgrade() -> None:
    """Make the table, with the first book in it."""
    books = op.create_table(
        "books",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
    )
    op.bulk_insert(books, [{"title": "A Room of One's Own"}])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("books")
