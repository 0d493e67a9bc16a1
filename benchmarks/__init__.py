"""How do real models fare, beside the tools people use today?"""
