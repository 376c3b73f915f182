"""${message}."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "${up_revision}", "${down_revision}", None, None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
