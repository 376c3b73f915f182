"""Keep the headers and links of emails, and which mailings are transactional"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line = sqlmodel.sql.sqltypes.AutoString
    op.add_column("mailing", sa.Column("transactional", sa.Boolean(), server_default=sa.false(), nullable=False))
    for table in ("occurrence", "content"):  # emails that were sent before have no such headers
        op.add_column(table, sa.Column("extras", line(), server_default=sa.text("'{}'"), nullable=False))
