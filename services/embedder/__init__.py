"""The embedder: texts in, vectors out, versions published.

Reads: `embed` jobs in batches across documents, the staged texts they name; `index` jobs.
Writes: `embedding`; through `ask(v)` the published tables; term statistics; as the owner, on a connection of its
own, the indexes of large collections.
Wakes: nobody.

**Invariants:** it reads no file; no transaction is open while the model works; a vector is stored once for each text,
whoever sends it; nothing is published inside the transaction that stores vectors.
"""
