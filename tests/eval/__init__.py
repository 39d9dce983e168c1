"""How well retrieval and answers do: `python -m tests.eval` measures, and floors say what no change may fall below."""
