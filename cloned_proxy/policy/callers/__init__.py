"""Who asks, by credential or by listener."""
