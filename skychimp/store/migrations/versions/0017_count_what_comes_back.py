"""Count what comes back for each occurrence"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

KINDS = ("bounced", "soft_bounce", "policy_bounce", "complaint")
WRONG_ADDRESS = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10")
"""The enhanced codes of nearly all refusals for a wrong address. Earlier versions did not count them."""


def upgrade() -> None:
    op.add_column("client", sa.Column("good_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    zero = sa.text("0")
    op.create_table(
        "return_count",
        sa.Column("occurrence_id", _integer(), autoincrement=False, nullable=False),
        *(sa.Column(name, _integer(), server_default=zero, nullable=False) for name in ("refused", *KINDS)),
        sa.Column("held_for_bounces", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("held_for_complaints", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["occurrence_id"], ["occurrence.id"], name=op.f("fk_return_count_occurrence_id")),
        sa.PrimaryKeyConstraint("occurrence_id", name=op.f("pk_return_count")),
    )
    codes = ", ".join(f"'{code}'" for code in WRONG_ADDRESS)
    sums = ", ".join(f"SUM(CASE WHEN kind = '{kind}' THEN 1 ELSE 0 END)" for kind in KINDS)
    op.execute(f"""
        INSERT INTO return_count (occurrence_id, refused, {", ".join(KINDS)})
        SELECT occurrence_id, SUM(CASE WHEN kind = 'refused' THEN number ELSE 0 END), {sums}
        FROM (
            SELECT DISTINCT occurrence_id, delivery_id, kind, 1 AS number
            FROM returned_mail JOIN delivery ON delivery.id = delivery_id WHERE has_token
            UNION ALL
            SELECT occurrence_id, 0, 'refused', SUM(attempts)
            FROM pace JOIN cause ON cause.id = cause_id
            WHERE outcome = 'failed' AND enhanced IN ({codes})
            GROUP BY occurrence_id
        ) AS returned
        GROUP BY occurrence_id""")  # noqa: S608


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
