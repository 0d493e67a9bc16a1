"""Which channels must be scaled alike, which can be scaled at all, and by whom?"""
