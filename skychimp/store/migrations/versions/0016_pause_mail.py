"""Let suppressions end"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("suppression", sa.Column("until", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
