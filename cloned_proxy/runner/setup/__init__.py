"""Other programs' own settings, changed so that this proxy is their way out, and changed back."""
