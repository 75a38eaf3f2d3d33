"""What resampling did to a fold run, the score that a fold would end with by now, the pooled score of a trial."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; so far the best score of a fold was that of its best epoch."""
    op.add_column("ledger_trials", sa.Column("pooled", sa.Double))
    op.add_column("ledger_fold_runs", sa.Column("sample", sa.Text))
    op.add_column("ledger_epochs", sa.Column("standing", sa.Double, nullable=False, server_default="0"))
    for direction, best in (("maximize", "max"), ("minimize", "min")):
        op.execute(
            f"""
            UPDATE ledger_epochs SET standing = coalesce((
                SELECT {best}(earlier.score) FROM ledger_epochs AS earlier
                WHERE earlier.study_id = ledger_epochs.study_id AND earlier.trial = ledger_epochs.trial
                AND earlier.fold = ledger_epochs.fold AND earlier.epoch <= ledger_epochs.epoch
                AND earlier.score <= 1e308
            ), score)
            WHERE study_id IN (SELECT id FROM ledger_studies WHERE direction = '{direction}')
            """  # noqa: S608 - both words are ours
        )
