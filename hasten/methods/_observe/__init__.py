"""What do layers read on calibration samples? For the methods that quantize."""
