"""Let suppressions end, and let persons add them on the web"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None

SOURCES = ("command", "import", "bounce", "complaint", "mail", "web")
OLD_COLUMNS = "id, owner_id, topic, address_hash, address, address_key, reason, source, at, note"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
        return
    op.add_column("suppression", sa.Column("until", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    op.drop_constraint(op.f("ck_suppression_source"), "suppression", type_="check")
    sources = ", ".join(f"'{source}'" for source in SOURCES)
    op.create_check_constraint(op.f("ck_suppression_source"), "suppression", f"source IN ({sources})")


def _rebuild() -> None:
    # SQLite cannot change a constraint, and a renamed table would have another SQL text.
    op.execute(f"CREATE TEMPORARY TABLE old_suppression AS SELECT {OLD_COLUMNS} FROM suppression")  # noqa: S608
    op.drop_table("suppression")
    _create()
    op.execute(f"INSERT INTO suppression ({OLD_COLUMNS}) SELECT {OLD_COLUMNS} FROM old_suppression ORDER BY id")  # noqa: S608
    op.execute("DROP TABLE old_suppression")


def _create() -> None:
    text, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    unique = ("address_hash", "owner_id", "topic")
    op.create_table(
        "suppression",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("topic", text(), nullable=False),
        sa.Column("address_hash", text(), nullable=False),
        sa.Column("address", text(), nullable=True),
        sa.Column("address_key", text(), nullable=True),
        sa.Column("reason", text(), nullable=False),
        sa.Column(
            "source",
            sa.Enum(*SOURCES, name="source", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("at", time(), nullable=False),
        sa.Column("note", text(), nullable=False),
        sa.Column("until", time(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppression")),
        sa.UniqueConstraint(*unique, name=op.f(f"uq_suppression_{'_'.join(unique)}")),
    )
    op.create_index(op.f("ix_suppression_address_key"), "suppression", ["address_key"])
