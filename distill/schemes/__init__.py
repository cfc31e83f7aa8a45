"""Training schemes, one paper a file."""
