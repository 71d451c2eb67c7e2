"""The directories of a run on the host's side of the wall, and how much they may take."""
