"""Save queries over clients, choose the clients of mailings by them, and name mailings"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.add_column("mailing", sa.Column("name", line(), server_default=sa.text("''"), nullable=False))
    op.create_table(
        "segment",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("owner_id", _integer(), nullable=False),
        sa.Column("key", line(), nullable=False),
        sa.Column("name", line(), nullable=False),
        sa.Column("expression", line(), nullable=False),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("fk_segment_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segment")),
        sa.UniqueConstraint("owner_id", "key", name=op.f("uq_segment_owner_id_key")),
    )
    op.create_table(
        "mailing_filter",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("mailing_id", _integer(), nullable=False),
        sa.Column("leaves_out", sa.Boolean(), nullable=False),
        sa.Column("tag", line(), nullable=True),
        sa.Column("segment_id", _integer(), nullable=True),
        sa.Column("expression", line(), nullable=True),
        sa.ForeignKeyConstraint(["mailing_id"], ["mailing.id"], name=op.f("fk_mailing_filter_mailing_id")),
        sa.ForeignKeyConstraint(["segment_id"], ["segment.id"], name=op.f("fk_mailing_filter_segment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mailing_filter")),
    )
    op.create_index(op.f("ix_mailing_filter_mailing_id"), "mailing_filter", ["mailing_id"], unique=False)
    op.create_index(op.f("ix_mailing_filter_segment_id"), "mailing_filter", ["segment_id"], unique=False)


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
