"""What stands behind build.py: one file for each group of commands, arguments and words only."""
