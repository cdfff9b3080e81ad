"""The command line: one file per command, no logic in it."""
