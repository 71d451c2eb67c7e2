"""The native plane: the common case of a CONNECT without the interpreter (source: `plane/`, Rust).

Python decides, and publishes what it has granted (`verdicts`); the plane serves what is published word for word, and
hands everything else over at a request boundary (`resumed`). Without the library the gate does the same work alone.
"""
