"""Which products of thinner weights stand for a layer, what do they cost, and how much do they keep?"""
