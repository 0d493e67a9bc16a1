"""How are weights stored in few bits, and decoded by the graph itself? For ``compress_weights``."""
