"""How does a quantized graph learn? Its integers as floats on a grid, and back; for methods that train."""
