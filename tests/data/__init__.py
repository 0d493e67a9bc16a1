"""Do samples come in as they are, and bad ones stay out with a message?"""
