"""The commands of `python -m app`, a file each, and what only they share."""
