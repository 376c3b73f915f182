"""Send a mailing to a sample of its clients first"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.add_column("mailing", sa.Column("canary", line(), server_default=sa.text("''"), nullable=False))
    op.add_column("mailing", sa.Column("canary_wait_s", _integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("occurrence", sa.Column("canary_until", time(), nullable=True))


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
