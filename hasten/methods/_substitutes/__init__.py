"""Which cheaper operators stand for a layer or an activation, and how near do they come?"""
