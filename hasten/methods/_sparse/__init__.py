"""Which weights of linear layers become zero, and what becomes of the others? For ``prune_weights``."""
