"""The report of a whole study: one page, and the same as files for other programs."""
