"""Does risky work stay in its own process?"""
