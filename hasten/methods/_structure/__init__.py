"""Which widths, branches and ranks together cost the outputs least for the time that may be left?"""
