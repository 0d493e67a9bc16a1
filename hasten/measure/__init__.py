"""Is it smaller, faster and still right?"""
