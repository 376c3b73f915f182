"""Attach files to messages"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line = sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        "stored_file",
        sa.Column("sha256", line(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_stored_file")),
    )
    for table in ("message", "occurrence", "content"):
        op.add_column(table, sa.Column("attachments", line(), server_default=sa.text("'[]'"), nullable=False))
    for table in ("intent", "delivery"):
        op.add_column(table, sa.Column("files_hash", line(), nullable=True))
