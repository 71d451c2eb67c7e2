"""Files as they are read, locked and replaced; YAML among them."""
