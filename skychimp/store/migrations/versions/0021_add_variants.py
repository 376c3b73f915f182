"""Add variants of messages"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

FORMATS = ("text", "markdown", "html")
LAYOUT_KINDS = ("none", "default", "own")


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.add_column("message", sa.Column("variant_by", line(), nullable=True))
    op.create_table(
        "message_variant",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("message_id", _integer(), nullable=False),
        sa.Column("key", line(), nullable=False),
        sa.Column("value", line(), nullable=False),
        sa.Column("subject", line(), nullable=False),
        sa.Column("body", line(), nullable=False),
        sa.Column("format", _choice(FORMATS, "format"), nullable=False),
        sa.Column("html", line(), nullable=True),
        sa.Column("attachments", line(), nullable=False),
        sa.Column("layout_kind", _choice(LAYOUT_KINDS, "layout_kind"), nullable=True),
        sa.Column("layout_id", _integer(), nullable=True),
        sa.Column("preheader", line(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        sa.CheckConstraint(
            "(layout_kind = 'own') = (layout_id IS NOT NULL)", name=op.f("ck_message_variant_own_layout")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_message_variant_message_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["layout_id"], ["layout.id"], name=op.f("fk_message_variant_layout_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_variant")),
        sa.UniqueConstraint("message_id", "key", name=op.f("uq_message_variant_message_id_key")),
    )
    op.create_index(op.f("ix_message_variant_layout_id"), "message_variant", ["layout_id"], unique=False)
    for table in ("occurrence", "content"):
        op.add_column(table, sa.Column("variants", line(), server_default=sa.text("''"), nullable=False))


def _choice(values: tuple[str, ...], name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
