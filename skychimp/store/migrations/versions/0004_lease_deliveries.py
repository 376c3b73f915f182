"""Lease deliveries to a run, many at once, instead of marking each"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("occurrence_id", sa.Integer(), nullable=False),
        sa.Column("delivery_ids", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.ForeignKeyConstraint(["occurrence_id"], ["occurrence.id"], name=op.f("fk_lease_occurrence_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "intent",
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_intent")),
    )
    # What a run was sending when it was killed becomes unknown when the run is found dead, as before.
    op.execute(
        "INSERT INTO lease (run_id, occurrence_id, delivery_ids) SELECT run_id, occurrence_id, json_group_array(id)"
        " FROM delivery WHERE state IN ('claimed', 'sending') GROUP BY run_id, occurrence_id"
    )
    op.execute(
        "INSERT INTO intent (delivery_id, lease_id) SELECT delivery.id, lease.id FROM delivery"
        " JOIN lease USING (run_id, occurrence_id) WHERE state = 'sending'"
    )
    # SQLite cannot drop a column that a constraint names, and a renamed table would have another SQL text.
    op.execute("CREATE TEMPORARY TABLE old_delivery AS SELECT * FROM delivery")
    op.execute("CREATE TEMPORARY TABLE newest_delivery AS SELECT seq FROM sqlite_sequence WHERE name = 'delivery'")
    op.drop_table("delivery")
    _create_delivery()
    op.execute(
        "UPDATE old_delivery SET state = 'queued', next_try_at = coalesce(next_try_at,"
        " (SELECT due_at FROM occurrence WHERE id = occurrence_id)) WHERE state IN ('claimed', 'sending')"
    )
    op.execute("ALTER TABLE old_delivery DROP COLUMN run_id")
    op.execute("ALTER TABLE old_delivery DROP COLUMN token")
    op.execute("INSERT INTO delivery SELECT * FROM old_delivery ORDER BY id")
    # An id is never used again, also if the rows with the highest ids were deleted.
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'delivery'")
    op.execute("INSERT INTO sqlite_sequence (name, seq) SELECT 'delivery', seq FROM newest_delivery")
    op.execute("DROP TABLE old_delivery")
    op.execute("DROP TABLE newest_delivery")


def _create_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("occurrence_id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("address", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("address_key", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("comment", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("tags", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "claimed",
                "sending",
                "sent",
                "deferred",
                "failed",
                "unknown",
                "expired",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("given_back", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.CheckConstraint("NOT (state IN ('claimed', 'sending'))", name=op.f("ck_delivery_stored_state")),
        sa.CheckConstraint(
            "NOT (state IN ('queued', 'deferred')) OR next_try_at IS NOT NULL", name=op.f("ck_delivery_waits_until")
        ),
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
