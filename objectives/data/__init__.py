"""From the user's files to rows: reading, the rows that are the same, folds."""
