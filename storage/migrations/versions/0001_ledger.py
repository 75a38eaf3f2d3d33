"""The ledger: studies, trials, fold runs, epochs, events, tracker cursors, roles."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STATE = sa.String(16)


def upgrade() -> None:
    """Create all tables."""
    _create_studies()
    _create_trials()
    _create_fold_runs()
    _create_epochs()
    _create_events()
    _create_roles()


def _create_studies() -> None:
    op.create_table(
        "ledger_studies",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("num_folds", sa.Integer, nullable=False),
        sa.Column("fingerprints", sa.Text, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("assignments", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="ledger_studies_primary"),
        sa.UniqueConstraint("name", name="ledger_studies_name_unique"),
    )
    op.create_table(
        "ledger_counters",
        _study("ledger_counters"),
        sa.Column("last_sequence", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("study_id", name="ledger_counters_primary"),
    )


def _create_trials() -> None:
    op.create_table(
        "ledger_trials",
        _study("ledger_trials"),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("std", sa.Double),
        sa.Column("estimate", sa.Double),
        sa.Column("reason", sa.Text),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.PrimaryKeyConstraint("study_id", "number", name="ledger_trials_primary"),
    )


def _create_fold_runs() -> None:
    op.create_table(
        "ledger_fold_runs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("fold", sa.Integer, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("best_epoch", sa.Integer),
        sa.Column("num_epochs", sa.Integer, nullable=False),
        sa.Column("checkpoint", sa.Text),
        sa.Column("predictions", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "trial"],
            ["ledger_trials.study_id", "ledger_trials.number"],
            name="ledger_fold_runs_study_id_trial_foreign",
        ),
        sa.PrimaryKeyConstraint("id", name="ledger_fold_runs_primary"),
        sa.UniqueConstraint("study_id", "trial", "fold", name="ledger_fold_runs_study_id_trial_fold_unique"),
    )
    op.create_index(
        "ledger_fold_runs_study_id_state_trial_fold_index", "ledger_fold_runs", ["study_id", "state", "trial", "fold"]
    )


def _create_epochs() -> None:
    op.create_table(
        "ledger_epochs",
        *(
            sa.Column(name, sa.Integer, nullable=False, autoincrement=False)
            for name in ("study_id", "trial", "fold", "epoch")
        ),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "trial", "fold"],
            ["ledger_fold_runs.study_id", "ledger_fold_runs.trial", "ledger_fold_runs.fold"],
            name="ledger_epochs_study_id_trial_fold_foreign",
        ),
        sa.PrimaryKeyConstraint("study_id", "trial", "fold", "epoch", name="ledger_epochs_primary"),
    )


def _create_events() -> None:
    op.create_table(
        "ledger_events",
        _study("ledger_events"),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("fold", sa.Integer),
        sa.Column("epoch", sa.Integer),
        sa.Column("payload", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "sequence", name="ledger_events_primary"),
    )
    op.create_table(
        "ledger_cursors",
        _study("ledger_cursors"),
        sa.Column("tracker", sa.Text, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "tracker", name="ledger_cursors_primary"),
    )


def _create_roles() -> None:
    op.create_table(
        "ledger_roles",
        _study("ledger_roles"),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "role", name="ledger_roles_primary"),
    )


def _study(table: str) -> sa.Column[int]:
    return sa.Column(
        "study_id", sa.Integer, sa.ForeignKey("ledger_studies.id", name=f"{table}_study_id_foreign"), nullable=False
    )
