"""Where rules look at the exchanges of an opened tunnel, whichever version of HTTP carries them."""
