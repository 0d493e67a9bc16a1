"""Which parts of a supernet learn in a step, and what are they made of?"""
