"""Which parts of a graph are added to what they read, what does each contribute, and how is one taken out?"""
