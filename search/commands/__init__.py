"""The commands of `search`, by what they are for; heavy modules are imported when a command is called."""
