"""Paths of URLs: globs, every reading that a server may have, packages of a registry."""
