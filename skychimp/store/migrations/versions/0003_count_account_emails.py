"""Count the emails about accounts, know which addresses were registered again, and never reuse a user's id"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_email",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mailbox_hash", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("purpose", _enum("verify", "reset", name="purpose"), nullable=False),
        sa.Column("sent_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_email")),
    )
    # SQLite cannot add AUTOINCREMENT to a table, and a renamed table would have another SQL text than a new one.
    op.execute("CREATE TEMPORARY TABLE old_user AS SELECT * FROM user")
    op.drop_table("user")
    _create_user()
    # It is unknown how often an address that is not verified yet was registered, so its code alone is not enough.
    op.execute("INSERT INTO user SELECT *, verified_at IS NULL FROM old_user ORDER BY id")
    op.execute("DROP TABLE old_user")


def _create_user() -> None:
    op.create_table(
        "user",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("email", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("address_key", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("password_hash", sqlmodel.sql.sqltypes.AutoString(), nullable=True),
        sa.Column("role", _enum("user", "manager", "editor", "admin", name="role"), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("verified_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("blocked_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("registered_again", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user")),
        sa.UniqueConstraint("address_key", name=op.f("uq_user_address_key")),
        sqlite_autoincrement=True,
    )
    op.execute(
        "CREATE TRIGGER user_changed AFTER UPDATE OF blocked_at ON user WHEN (old.blocked_at) IS NOT (new.blocked_at)"
        " BEGIN UPDATE store_info SET audience_version = random(); END"
    )


def _enum(*values: str, name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)
