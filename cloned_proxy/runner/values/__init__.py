"""What a sandbox is, as values, and what can go wrong with one. No engine, no file."""
