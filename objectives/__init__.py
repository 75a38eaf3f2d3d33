"""Pure training: one fold from rows to scores. Knows no Optuna, SQL, tracker or engine."""
