"""Tell the hosts of runs apart, and know of fail-overs"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "run", sa.Column("host_id", sqlmodel.sql.sqltypes.AutoString(), server_default=sa.text("''"), nullable=False)
    )
    op.add_column("store_info", sa.Column("held_reason", sqlmodel.sql.sqltypes.AutoString(), nullable=True))
    op.add_column("store_info", sa.Column("database_id", sqlmodel.sql.sqltypes.AutoString(), nullable=True))
    op.add_column("store_info", sa.Column("waits_for_standby", sa.Boolean(), nullable=True))
    op.execute("UPDATE store_info SET held_reason = 'after a restore' WHERE held_at IS NOT NULL")
