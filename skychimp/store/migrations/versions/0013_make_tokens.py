"""Keep the keys of the tokens that unsubscribe links and return paths have"""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sqlmodel.sql.sqltypes.UTCDateTime
    table = op.create_table(
        "token_key",
        sa.Column("number", _integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("replaced_at", time(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_token_key")),
    )
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM store_info")):  # not in a new store, which gets its key later
        op.bulk_insert(table, [{"number": 1, "key": secrets.token_bytes(32), "created_at": datetime.now(UTC)}])


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
