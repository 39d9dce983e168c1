"""What stands between two rules at the top of a Markdown file: its own title, author, tags; pure.

Only scalars and lists of scalars are read, line by line: there are no tags, aliases or objects that an author could make
grow.
"""

import re

from services.ingester.parsing.writer import METADATA_CHARACTERS_MAX, METADATA_NAME_CHARACTERS_MAX
from shared.text import one_line

CHARACTERS_MAX = 20_000
ENTRIES_MAX = 50
_YAML = re.compile(r"\A---[ \t]*\n(?P<body>.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TOML = re.compile(r"\A\+\+\+[ \t]*\n(?P<body>.*?\n)?\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL)
# Between two rules may stand prose; front matter begins with a key.
_KEY_FIRST = re.compile(r"\s*+(?:#[^\n]*\n\s*+)*+[\"']?\w[\w .-]*+[\"']?[ \t]*+:(?:\s|\Z)")
_YAML_ENTRY = re.compile(r"([A-Za-z_][\w-]*+):(?:[ \t]++(.*))?$")
_TOML_ENTRY = re.compile(r"([A-Za-z_][\w-]*+)[ \t]*+=[ \t]*+(.*)$")
_ITEM = re.compile(r"[ \t]*+-[ \t]++(\S.*)$")
_LIST = re.compile(r"\[(.*)\][ \t]*$")
_TEXT = re.compile(r"[|>][+-]?[ \t]*$")
# What begins so is no scalar: a mapping, an anchor, an alias, a tag.
_NO_SCALAR = ("{", "&", "*", "!", "[")


def find_front_matter(text: str) -> tuple[dict[str, str], int]:
    """Return what it says, and the character behind it: 0 where there is none."""
    head = text[:CHARACTERS_MAX]
    if found := _TOML.match(head):
        return _read_toml(found["body"] or ""), found.end()
    found = _YAML.match(head)
    if found is None or ((found["body"] or "").strip() and not _KEY_FIRST.match(found["body"])):
        return {}, 0
    return _read_yaml(found["body"] or ""), found.end()


def _read_yaml(body: str) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    below = ""  # the key whose value stands in the lines below it
    is_text = False
    for line in body.split("\n"):
        if entry := _YAML_ENTRY.match(line):
            value = (entry[2] or "").strip()
            below, is_text = ("", False) if value and not _TEXT.match(value) else (entry[1], bool(value))
            if not below:
                values.setdefault(entry[1], []).extend(_scalars(value))
        elif below and is_text:
            values[below] = [" ".join([*values.get(below, []), line.strip()])]
        elif below and (item := _ITEM.match(line)) and not re.match(r"[\w-]+:(?:\s|$)", item[1]):
            values.setdefault(below, []).extend(_scalars(item[1].strip()))
    return _joined(values)


def _read_toml(body: str) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for line in body.split("\n"):
        if line.startswith("["):  # a table: what is below belongs to it
            break
        if entry := _TOML_ENTRY.match(line):
            values.setdefault(entry[1], []).extend(_scalars(entry[2].strip()))
    return _joined(values)


def _scalars(value: str) -> list[str]:
    """Return a scalar, or those of a list on one line."""
    if found := _LIST.match(value):
        return [_unquoted(part.strip()) for part in found[1].split(",")]
    if value.startswith(_NO_SCALAR):
        return []
    return [_unquoted(value)]


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
        return value[1 : value.rfind(value[0])].strip()
    return value.split(" #", 1)[0].strip().strip("\"'")


def _joined(values: dict[str, list[str]]) -> dict[str, str]:
    entries = [
        (key, one_line(", ".join(part for part in parts if part), METADATA_CHARACTERS_MAX))
        for key, parts in list(values.items())[:ENTRIES_MAX]
    ]
    return {key: value for key, value in entries if value and len(key) <= METADATA_NAME_CHARACTERS_MAX}
