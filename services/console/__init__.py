"""The `askbox` command: starts everything on one machine, migrates, checks; for the rest a client of the HTTP interface.

Reads: the HTTP interface; for `check` the database, as its owner.
Writes: what it asks the HTTP interface to write; the schema, for `migrate`.

**Invariant:** exit codes are 0 done, 1 a finding or failure, 2 wrong usage, 78 wrong settings; no command ends in a traceback.
"""
