"""How does a graph learn?"""
