"""What do layers read on calibration samples, and make of it? For the methods that change weights."""
