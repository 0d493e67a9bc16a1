"""How does a schedule of rounds go? How much is left after each, and which of them are undone."""
