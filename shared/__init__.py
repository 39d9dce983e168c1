"""What more than one process needs: settings, database access, wake-ups, the queue, intake, publication, models.

**Invariant:** nothing here imports a service. The layers are a contract in `pyproject.toml`.
"""
