"""One run, from the job to its result, and how Python code asks for it."""
