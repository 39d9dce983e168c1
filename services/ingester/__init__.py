"""The ingester: files in, staged chunks out.

Reads: the inbox folder; `ingest` jobs and the blobs they name; `scan` jobs and folders below ASKBOX_INGEST_ROOTS.
Writes: blobs, versions and their jobs (watcher, scans); staged chunks, `embed` jobs, and what is attached to a mail as
documents of their own (parser).
Wakes: ingesters (a version arrived), embedders (texts without a vector).

**Invariants:** it never calls a model; no file is parsed in this process; no transaction is open while a file is read
or parsed; a file's bytes are in the database before anything is done with them.
"""
