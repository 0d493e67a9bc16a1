"""Does every model come in whole, and every bad one stay out with a message?"""
