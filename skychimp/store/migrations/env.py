"""Alembic's entry: migrations run on the connection, and in the transaction, that the caller gives."""

from alembic import context

from skychimp.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
