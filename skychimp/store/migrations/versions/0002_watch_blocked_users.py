"""Renew the audience version when a user is blocked or unblocked"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    renewal = "UPDATE store_info SET audience_version = random()"
    op.execute(
        "CREATE TRIGGER user_changed AFTER UPDATE OF blocked_at ON user WHEN (old.blocked_at) IS NOT (new.blocked_at)"
        f" BEGIN {renewal}; END"
    )
    # Figures in a cache were counted with the mailings of blocked users.
    op.execute(renewal)
