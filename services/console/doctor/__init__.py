"""`askbox doctor`: looks at everything that askbox needs, and says what to do where something is missing.

**Invariants:** it starts no server, applies no migration and sends no text anywhere; what it writes it removes at once;
every check has a time limit, and one that hangs does not keep the others from being told; a key is never shown.
"""
