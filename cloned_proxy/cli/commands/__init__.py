"""The commands by subject; in each folder the file with its name is the command."""
