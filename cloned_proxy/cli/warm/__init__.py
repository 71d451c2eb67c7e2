"""An `exec` that does not pay for its start: a process that has everything imported runs it for the one that was typed.

`client` is all that the typed process needs; `server` forks one process for each command, `child` is that process, and
`starter` is what `serve` knows of it.
"""
