"""Where every client connection starts."""
