"""How do samples get in? One file a format; every format becomes a store of samples."""
