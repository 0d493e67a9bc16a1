"""Does the documentation say what the program does?"""
