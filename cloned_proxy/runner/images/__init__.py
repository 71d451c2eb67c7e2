"""The images that tools run in: built, found, and asked what they hold."""
