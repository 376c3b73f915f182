"""Tell what was only written to the outbox from what was sent"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

STATES = (
    "queued", "claimed", "sending", "sent", "outbox", "deferred", "failed", "unknown", "expired", "cancelled",
    "replaced",
)  # fmt: skip
OUTCOMES = ("sent", "outbox", "deferred", "failed", "unknown", "given_back")
CHECKED = (
    ("delivery", "state", STATES),
    ("result", "state", STATES),
    ("attempt", "outcome", OUTCOMES),
    ("cause", "outcome", OUTCOMES),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _allow_value_in_file()
    else:
        _allow_value_on_server()
    op.add_column(
        "run",
        sa.Column(
            "outbox",
            sa.Integer().with_variant(sa.BigInteger(), "postgresql"),
            server_default=sa.text("0"),
            nullable=False,
        ),
    )
    op.add_column(
        "run", sa.Column("relay", sqlmodel.sql.sqltypes.AutoString(), server_default=sa.text("''"), nullable=False)
    )
    _rename_old_outcomes()
    is_in_outbox = sa.text("state = 'outbox'")
    op.create_index(
        "ix_delivery_outbox",
        "delivery",
        ["occurrence_id"],
        unique=False,
        sqlite_where=is_in_outbox,
        postgresql_where=is_in_outbox,
    )


def _allow_value_in_file() -> None:
    # SQLite cannot change a constraint. Copying the largest tables would take minutes, so only their definition is
    # changed (lang_altertable.html, section 7: what does not affect the content on disk).
    op.execute("PRAGMA writable_schema = ON")
    tables = ", ".join(f"'{table}'" for table, *_ in CHECKED)
    new_sql = "replace(sql, '''sent'', ''deferred''', '''sent'', ''outbox'', ''deferred''')"
    op.execute(f"UPDATE sqlite_schema SET sql = {new_sql} WHERE type = 'table' AND name IN ({tables})")  # noqa: S608
    op.execute("PRAGMA writable_schema = RESET")


def _allow_value_on_server() -> None:
    for table, column, values in CHECKED:
        allowed = ", ".join(f"'{value}'" for value in values)
        op.drop_constraint(op.f(f"ck_{table}_{column}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, f"{column} IN ({allowed})")


def _rename_old_outcomes() -> None:
    """Change deliveries whose only success was to be written to the outbox, and what was counted of them."""
    renamed = "UPDATE attempt SET outcome = 'outbox' WHERE outcome = 'sent' AND relay = 'outbox'"
    if not op.get_bind().exec_driver_sql(renamed).rowcount:
        return
    of_outcome = "SELECT delivery_id FROM attempt WHERE outcome = '{}'"
    written, sent = of_outcome.format("outbox"), of_outcome.format("sent")
    op.execute(
        f"UPDATE delivery SET state = 'outbox' WHERE state = 'sent' AND id IN ({written}) AND id NOT IN ({sent})"  # noqa: S608
    )
    op.execute("UPDATE cause SET outcome = 'outbox' WHERE outcome = 'sent' AND words LIKE 'written to the outbox as %'")
    in_outbox = "SELECT occurrence_id FROM delivery WHERE state = 'outbox'"
    op.execute(f"UPDATE occurrence SET results_of = NULL WHERE id IN ({in_outbox})")  # noqa: S608
