"""One process, or several workers, put together and taken apart."""
