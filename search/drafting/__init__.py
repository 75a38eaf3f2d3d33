"""What comes before a study: a look at the data, a proposed study file, demo data."""
