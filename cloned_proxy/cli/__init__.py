"""The command line: one module a command, `app` lists them."""
