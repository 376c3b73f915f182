"""Hold mailings, replace deliveries by newer ones, and date emails when they are sent"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATES = (
    "queued", "claimed", "sending", "sent", "deferred", "failed", "unknown", "expired", "cancelled", "replaced",
)  # fmt: skip


def upgrade() -> None:
    time, line = sqlmodel.sql.sqltypes.UTCDateTime, sqlmodel.sql.sqltypes.AutoString
    op.add_column("mailing", sa.Column("held_at", time(), nullable=True))
    op.add_column("mailing", sa.Column("held_reason", line(), nullable=True))
    op.add_column("mailing", sa.Column("held_settings", line(), nullable=True))
    is_held = sa.text("held_at IS NOT NULL")
    op.create_index("ix_mailing_held", "mailing", ["id"], unique=False, sqlite_where=is_held, postgresql_where=is_held)
    op.add_column("lease", sa.Column("leased_at", time(), nullable=True))
    op.add_column("occurrence", sa.Column("held_up_s", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.drop_column("occurrence", "deadline")
    _create_content()
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_delivery()
        _rebuild_result()
    else:
        _change_delivery()
    # Until now, an email's date was the time of the opening.
    opened_at = "(SELECT opened_at FROM occurrence WHERE occurrence.id = occurrence_id)"
    op.execute(f"UPDATE lease SET leased_at = {opened_at}")  # noqa: S608
    op.execute(f"UPDATE delivery SET dated_at = {opened_at} WHERE state = 'unknown'")  # noqa: S608


def _create_content() -> None:
    line = sqlmodel.sql.sqltypes.AutoString
    kind = sa.Enum("text", "markdown", "html", name="format", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "content",
        sa.Column("id", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
        sa.Column("occurrence_id", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
        sa.Column("subject", line(), nullable=False),
        sa.Column("body", line(), nullable=False),
        sa.Column("format", kind, nullable=False),
        sa.Column("html", line(), nullable=True),
        sa.Column("sender", line(), nullable=False),
        sa.Column("return_path", line(), nullable=False),
        sa.ForeignKeyConstraint(["occurrence_id"], ["occurrence.id"], name=op.f("fk_content_occurrence_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content")),
    )
    op.create_index(op.f("ix_content_occurrence_id"), "content", ["occurrence_id"], unique=False)


def _change_delivery() -> None:
    op.add_column("delivery", sa.Column("give_up_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    op.add_column("delivery", sa.Column("dated_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    op.add_column("delivery", sa.Column("content_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_delivery_content_id"), "delivery", "content", ["content_id"], ["id"])
    states = ", ".join(f"'{state}'" for state in STATES)
    for table in ("delivery", "result"):
        op.drop_constraint(op.f(f"ck_{table}_state"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_state"), table, f"state IN ({states})")


def _rebuild_delivery() -> None:
    # SQLite cannot change a constraint, and a renamed table would have another SQL text.
    op.execute("CREATE TEMPORARY TABLE old_delivery AS SELECT *, NULL, NULL, NULL FROM delivery")
    op.execute("CREATE TEMPORARY TABLE newest_delivery AS SELECT seq FROM sqlite_sequence WHERE name = 'delivery'")
    op.drop_table("delivery")
    _create_delivery()
    op.execute("INSERT INTO delivery SELECT * FROM old_delivery ORDER BY id")
    # An id is never used again, also if the rows with the highest ids were deleted.
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'delivery'")
    op.execute("INSERT INTO sqlite_sequence (name, seq) SELECT 'delivery', seq FROM newest_delivery")
    op.execute("DROP TABLE old_delivery")
    op.execute("DROP TABLE newest_delivery")


def _rebuild_result() -> None:
    # Its figures are counted again when they are needed.
    op.execute("UPDATE occurrence SET results_of = NULL")
    op.drop_table("result")
    op.create_table(
        "result",
        sa.Column("occurrence_id", sa.Integer(), nullable=False),
        sa.Column("domain", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("state", _state_type(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["occurrence_id"], ["occurrence.id"], name=op.f("fk_result_occurrence_id")),
        sa.PrimaryKeyConstraint("occurrence_id", "domain", "state", "attempts", name=op.f("pk_result")),
        sqlite_with_rowid=False,
    )


def _state_type() -> sa.Enum:
    return sa.Enum(*STATES, name="state", native_enum=False, create_constraint=True, length=16)


def _create_delivery() -> None:
    time, line = sqlmodel.sql.sqltypes.UTCDateTime, sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("occurrence_id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("address", line(), nullable=False),
        sa.Column("address_key", line(), nullable=False),
        sa.Column("name", line(), nullable=False),
        sa.Column("comment", line(), nullable=False),
        sa.Column("tags", line(), nullable=False),
        sa.Column("state", _state_type(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("given_back", sa.Integer(), nullable=False),
        sa.Column("next_try_at", time(), nullable=True),
        sa.Column("give_up_at", time(), nullable=True),
        sa.Column("dated_at", time(), nullable=True),
        sa.Column("content_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("NOT (state IN ('claimed', 'sending'))", name=op.f("ck_delivery_stored_state")),
        sa.CheckConstraint(
            "NOT (state IN ('queued', 'deferred')) OR next_try_at IS NOT NULL", name=op.f("ck_delivery_waits_until")
        ),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_delivery_content_id")),
        sa.ForeignKeyConstraint(["occurrence_id"], ["occurrence.id"], name=op.f("fk_delivery_occurrence_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("occurrence_id", "address_key", name=op.f("uq_delivery_occurrence_id_address_key")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        for name, condition in (("unknown", "state = 'unknown'"), ("waiting", "state IN ('queued', 'deferred')")):
            batch_op.create_index(
                f"ix_delivery_{name}",
                ["occurrence_id", "next_try_at"],
                unique=False,
                sqlite_where=sa.text(condition),
            )
