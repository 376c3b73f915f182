"""Run migrations. Alembic executes this file.

`revisions.migrate` provides the connection, and the migrations run in its transaction. No other command of Alembic that
needs a database is supported: a store is upgraded when Skychimp opens it.
"""

from alembic import context
from alembic.util import CommandError

from skychimp.models import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise CommandError('only "alembic revision" can be used here; a store is upgraded when Skychimp opens it')
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
