"""What people look at: tables in the terminal, the dashboards, the diagnosis of a trial, the report of a study."""
