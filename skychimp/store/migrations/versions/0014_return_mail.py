"""Keep what came back for deliveries, and the hashes of forgotten addresses"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SOURCES = ("command", "import", "bounce", "complaint", "mail", "web")
KINDS = ("bounced", "soft_bounce", "policy_bounce", "complaint")


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.add_column("delivery", sa.Column("address_hash", line(), nullable=True))
    op.create_table(
        "returned_mail",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("digest", line(), nullable=False),
        sa.Column("delivery_id", _integer(), nullable=False),
        sa.Column("address_hash", line(), nullable=False),
        sa.Column("kind", _choice(KINDS, "kind"), nullable=False),
        sa.Column("at", time(), nullable=False),
        sa.Column("reply", line(), nullable=False),
        sa.Column("has_token", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_returned_mail_delivery_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_returned_mail")),
        sa.UniqueConstraint("digest", name=op.f("uq_returned_mail_digest")),
    )
    for name in ("address_hash", "delivery_id"):
        op.create_index(op.f(f"ix_returned_mail_{name}"), "returned_mail", [name], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_suppression()
    else:
        op.drop_constraint(op.f("ck_suppression_source"), "suppression", type_="check")
        sources = ", ".join(f"'{source}'" for source in SOURCES)
        op.create_check_constraint(op.f("ck_suppression_source"), "suppression", f"source IN ({sources})")


def _rebuild_suppression() -> None:
    # SQLite cannot change a constraint, and a renamed table would have another SQL text.
    line = sqlmodel.sql.sqltypes.AutoString
    unique = ("address_hash", "owner_id", "topic")
    op.execute("CREATE TEMPORARY TABLE old_suppression AS SELECT * FROM suppression")
    op.drop_table("suppression")
    op.create_table(
        "suppression",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("topic", line(), nullable=False),
        sa.Column("address_hash", line(), nullable=False),
        sa.Column("address", line(), nullable=True),
        sa.Column("address_key", line(), nullable=True),
        sa.Column("reason", line(), nullable=False),
        sa.Column("source", _choice(SOURCES, "source"), nullable=False),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("note", line(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppression")),
        sa.UniqueConstraint(*unique, name=op.f(f"uq_suppression_{'_'.join(unique)}")),
    )
    op.create_index(op.f("ix_suppression_address_key"), "suppression", ["address_key"])
    op.execute("INSERT INTO suppression SELECT * FROM old_suppression ORDER BY id")
    op.execute("DROP TABLE old_suppression")


def _choice(values: tuple[str, ...], name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
