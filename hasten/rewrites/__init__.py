"""How is a graph simplified without changing what it computes? One rewrite a file."""
