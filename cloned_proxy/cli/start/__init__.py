"""What runs before a command does: the list of commands, quick ways past it, completion, manual."""
