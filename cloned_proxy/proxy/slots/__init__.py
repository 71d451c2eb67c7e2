"""The sandboxes that this process serves: their listeners, their names, their end."""
