"""Where does a graph fall into blocks, and how does each learn what the original computes there?"""
