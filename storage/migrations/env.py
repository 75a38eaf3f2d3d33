"""Alembic's entry: run the revisions on the connection that `storage.migrations.upgrade` hands over."""

from alembic import context

from fold_search.storage.database import VERSION_TABLE
from fold_search.storage.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
