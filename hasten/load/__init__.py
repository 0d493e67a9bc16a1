"""How does a model get in? One file a framework; every model becomes a checked graph."""
