"""Where do a graph's integers begin and end, and how is that written? The parts of ``quantize_static``."""
