"""How long each worker has held its device."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table; what earlier versions used is not known."""
    op.create_table(
        "ledger_usage",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("ledger_studies.id", name="ledger_usage_study_id_foreign"),
            nullable=False,
        ),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "role", name="ledger_usage_primary"),
    )
