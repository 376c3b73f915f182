"""Give clients custom fields, and deliveries those that their content uses"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line = sqlmodel.sql.sqltypes.AutoString
    kind = sa.Enum(
        "text", "number", "boolean", "date", name="type", native_enum=False, create_constraint=True, length=16
    )
    op.add_column("client", sa.Column("fields", line(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("occurrence", sa.Column("fields", line(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column("delivery", sa.Column("fields", line(), nullable=True))
    op.create_table(
        "client_field",
        sa.Column("owner_id", _integer(), nullable=False),
        sa.Column("key", line(), nullable=False),
        sa.Column("name", line(), nullable=False),
        sa.Column("type", kind, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("fk_client_field_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "key", name=op.f("pk_client_field")),
    )


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
