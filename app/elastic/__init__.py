"""A run whose ranks may die, leave and join while it goes on."""
