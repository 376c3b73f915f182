"""Keep suppressions and topics, and remember the addresses that are bad"""

import hashlib
import hmac

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    unique = ("address_hash", "owner_id", "topic")
    op.create_table(
        "suppression",
        sa.Column("id", _integer(), nullable=False),
        sa.Column("owner_id", _integer(), nullable=False),
        sa.Column("topic", text(), nullable=False),
        sa.Column("address_hash", text(), nullable=False),
        sa.Column("address", text(), nullable=True),
        sa.Column("address_key", text(), nullable=True),
        sa.Column("reason", text(), nullable=False),
        sa.Column(
            "source",
            sa.Enum("command", "import", "bounce", name="source", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("note", text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppression")),
        sa.UniqueConstraint(*unique, name=op.f(f"uq_suppression_{'_'.join(unique)}")),
    )
    op.create_index(op.f("ix_suppression_address_key"), "suppression", ["address_key"])
    op.add_column("mailing", sa.Column("topic", text(), server_default=sa.text("''"), nullable=False))
    _remember_bad_addresses()


def _remember_bad_addresses() -> None:
    db = op.get_bind()
    secret = db.execute(sa.text("SELECT secret FROM store_info")).scalar()
    query = "SELECT owner_id, email, address_key, bad_at, bad_reason FROM client WHERE bad_at IS NOT NULL"
    insert = sa.text(
        "INSERT INTO suppression (owner_id, topic, address_hash, address, address_key, reason, source, at, note)"
        " VALUES (:owner_id, '', :hash, :email, :key, 'bounce', 'bounce', :at, :note)"
    )
    for row in db.execute(sa.text(query)).all():
        address_hash = hmac.new(bytes(secret or b""), row.address_key.encode(), hashlib.sha256).hexdigest()[:32]
        values = {"owner_id": row.owner_id, "hash": address_hash, "email": row.email, "key": row.address_key}
        db.execute(insert, values | {"at": row.bad_at, "note": row.bad_reason or ""})


def _integer() -> sa.types.TypeEngine[int]:
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")
