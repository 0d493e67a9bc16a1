"""Does anything a file can hold get past the errors hasten raises on purpose?"""
