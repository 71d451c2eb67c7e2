"""The policy file: read, watched, and edited with its comments kept."""
