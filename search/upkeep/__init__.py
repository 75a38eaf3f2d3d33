"""Care for what is stored: backup, restore, clean."""
