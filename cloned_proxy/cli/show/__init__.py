"""How results, errors and recorded calls are shown."""
