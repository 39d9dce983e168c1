"""`askbox eval`: a retrieval collection through the real pipeline, its questions over HTTP, and what came of it in figures.

Reads: a folder with a collection, and the settings, as `askbox up` does.
Writes: a scratch home with a database of its own, which is removed at the end, or kept where `--home` says.

**Invariants:** no other database is ever touched; the text of documents is never held as a whole; whatever ends the command,
its processes end, and a home of its own is removed.
"""
