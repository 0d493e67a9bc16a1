"""The parts of a supernet that are trained in a step."""
