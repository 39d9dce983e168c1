"""Named SQL: read `.sql` files beside their callers, so that a misspelt name fails at import."""

import re
from importlib import resources

_HEADER = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)


class Statements(dict[str, str]):
    """Statements of one file, by name."""

    def __missing__(self, name: str) -> str:
        raise LookupError(f"no statement is named {name!r}; there are {', '.join(self)}")


def load_statements(package: str, file_name: str) -> Statements:
    """Read the statements of one `.sql` file.

    Raises: ValueError when two statements have one name, or the file does not begin with a header.
    """
    text = resources.files(package).joinpath(file_name).read_text(encoding="utf-8")
    head, *rest = _HEADER.split(text)
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{package}/{file_name}: text before the first '-- name:'")
    names, bodies = rest[::2], rest[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{package}/{file_name}: a statement name stands twice")
    return Statements({name: body.strip() for name, body in zip(names, bodies, strict=True)})
