"""Which numbers survive in 16 bits, and how is the boundary to float32 written? The parts of ``cast``."""
