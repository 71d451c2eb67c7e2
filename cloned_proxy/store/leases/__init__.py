"""Rules that end: by two clocks, or after so many uses."""
