"""What kind of failure ended a fold run or a trial, and how many rows fit into memory at once."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the table; of earlier failures only the reason in words is known."""
    op.add_column("ledger_trials", sa.Column("failure", sa.String(16)))
    op.add_column("ledger_fold_runs", sa.Column("failure", sa.String(16)))
    op.create_table(
        "ledger_memory",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("ledger_studies.id", name="ledger_memory_study_id_foreign"),
            nullable=False,
        ),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "device", "shape", name="ledger_memory_primary"),
    )
