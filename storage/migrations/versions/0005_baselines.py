"""What simple models reach on the folds of a study."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table; of studies that were begun before, the next run computes them."""
    op.create_table(
        "ledger_baselines",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("ledger_studies.id", name="ledger_baselines_study_id_foreign"),
            nullable=False,
        ),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("std", sa.Double),
        sa.Column("pooled", sa.Double),
        sa.Column("fold_scores", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "name", name="ledger_baselines_primary"),
    )
