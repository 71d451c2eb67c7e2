"""What the proxy itself answers at `http://cloned.internal`."""
