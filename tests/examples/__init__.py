"""Are the examples what their pages say?"""
