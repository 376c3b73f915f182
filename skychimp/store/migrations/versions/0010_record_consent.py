"""Record when and how clients agreed to get mail"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    line, time = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    source = sa.Enum("command", "import", name="source", native_enum=False, create_constraint=True, length=16)
    op.add_column("client", sa.Column("consent_at", time(), nullable=True))
    op.create_table(
        "consent",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("owner_id", _integer(), nullable=False),
        sa.Column("address_hash", line(), nullable=False),
        sa.Column("at", time(), nullable=False),
        sa.Column("wording", line(), nullable=False),
        sa.Column("source", source, nullable=False),
        sa.Column("proof", line(), nullable=False),
        sa.Column("recorded_at", time(), nullable=False),
        sa.Column("forgotten_at", time(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("fk_consent_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent")),
    )
    op.create_index(op.f("ix_consent_owner_id_address_hash"), "consent", ["owner_id", "address_hash"], unique=False)


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
