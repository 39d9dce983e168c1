"""The query process: questions in, answers with citations out; documents, status and health over HTTP.

Reads: the published tables, as `askbox_reader`, inside the scope of the caller.
Writes: what is uploaded, with versions and jobs; requests for scans; retries; deletions with their tombstones; its own
worker row.
Wakes: ingesters (a version arrived, a folder is to be scanned).

**Invariants:** it keeps nothing between requests, but the latest look at the work while somebody watches it; it opens no
file that a request names; the transaction that reads for an answer is REPEATABLE READ and is over before a model works on
what was read; every statement that reads documents takes the scope as a parameter, besides row-level security.
"""
