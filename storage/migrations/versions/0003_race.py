"""The chance that the race stated of a trial, and whether it was spared so that such chances can be checked."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; so far no rule stated a chance."""
    op.add_column("ledger_trials", sa.Column("chance", sa.Double))
    op.add_column("ledger_trials", sa.Column("audited", sa.Boolean, nullable=False, server_default=sa.false()))
