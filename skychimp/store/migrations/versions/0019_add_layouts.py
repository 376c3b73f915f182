"""Put messages into layouts"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

KINDS = ("none", "default", "own")


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.create_table(
        "layout",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("owner_id", _integer(), nullable=False),
        sa.Column("key", line(), nullable=False),
        sa.Column("name", line(), nullable=False),
        sa.Column("html", line(), nullable=False),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("fk_layout_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_layout")),
        sa.UniqueConstraint("owner_id", "key", name=op.f("uq_layout_owner_id_key")),
    )
    op.create_table(
        "message_layout",
        sa.Column("message_id", _integer(), autoincrement=False, nullable=False),
        sa.Column("kind", _choice(KINDS, "kind"), nullable=False),
        sa.Column("layout_id", _integer(), nullable=True),
        sa.Column("preheader", line(), nullable=False),
        sa.CheckConstraint("(kind = 'own') = (layout_id IS NOT NULL)", name=op.f("ck_message_layout_own_layout")),
        sa.ForeignKeyConstraint(["layout_id"], ["layout.id"], name=op.f("fk_message_layout_layout_id")),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_message_layout_message_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_message_layout")),
    )
    op.create_index(op.f("ix_message_layout_layout_id"), "message_layout", ["layout_id"], unique=False)


def _choice(values: tuple[str, ...], name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
