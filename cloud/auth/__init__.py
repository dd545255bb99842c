"""Who asks: bearer tokens, the console's signed cookie, and what each role may do."""
