"""How are weights made integers when activations are known only at run time? For ``quantize_dynamic``."""
