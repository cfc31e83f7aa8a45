"""Networks by name, and what is read from inside them; imports libraries only."""
