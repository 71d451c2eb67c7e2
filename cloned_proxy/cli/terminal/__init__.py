"""The terminal and the streams of the process that was typed."""
