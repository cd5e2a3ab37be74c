"""Which model writes the next token, and how is it loaded and run?"""
