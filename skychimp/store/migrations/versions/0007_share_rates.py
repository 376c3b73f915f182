"""Share the rates between all runs, and know what each run sends"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("mailing_id", _integer(), nullable=True))
    op.create_table(
        "rate_slot",
        sa.Column("id", _integer(), autoincrement=False, nullable=False),
        sa.Column("next_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_rate_slot_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rate_slot")),
    )
    op.create_table(
        "rate_count",
        sa.Column("minute", _integer(), autoincrement=False, nullable=False),
        sa.Column("emails", _integer(), nullable=False),
        sa.PrimaryKeyConstraint("minute", name=op.f("pk_rate_count")),
    )


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
