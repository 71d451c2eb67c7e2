"""`exec`, `shell`, `home`, `verify`."""
