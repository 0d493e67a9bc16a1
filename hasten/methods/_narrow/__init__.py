"""Which units of a layer are worth least, how many of them go, and what makes up for them?"""
