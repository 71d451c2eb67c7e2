"""The log of a replica in the store, its receipts, and exports that can be checked without it."""
