"""What do layers read on calibration samples, and what do they make of it? For methods that change weights."""
