"""What a question says of its own words: `"this phrase"` must stand in a chunk, `-this` and `-"this one"` must not; pure.

No operator: a quotation mark without its partner or within a word (`5" pipes`); a dash within a word (`foo-bar`), alone, doubled
(`--verbose`) or before a number (`-5`) or a single letter (`tar -x`); whatever stands between backticks.
"""

import re
from dataclasses import dataclass

# Each is looked up on its own; what a question has more of is read as plain words.
OPERATORS_MAX = 8
_OPERATOR = re.compile(
    r"""(?P<code>`[^`\n]*`)
    | (?<![^\s(\[]) (?P<minus>-)? (?: "(?P<plain>[^"\n]+)" | [“„](?P<curly>[^“”„\n]+)[”“] | «(?P<angled>[^«»\n]+)» ) (?![\w"])
    | (?<!\S) -(?P<word>[^\W\d_][^\s"“”„«»`]+)""",
    re.VERBOSE,
)
_WORD = re.compile(r"\w")
_WORDLIKE = re.compile(r"[\w+#]")


@dataclass(frozen=True, slots=True)
class Terms:
    """A question without its operators, which is what is embedded and looked up, and what they ask for."""

    text: str
    phrases: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


def read_terms(question: str) -> Terms:
    """Read the operators of a question. One that has none stays as it is; the text of one that only excludes is empty."""
    phrases: dict[str, None] = {}
    excluded: dict[str, None] = {}
    parts: list[str] = []
    at = 0
    for found in _OPERATOR.finditer(question):
        said = _said(found)
        if said is None or len(phrases) + len(excluded) == OPERATORS_MAX:
            continue
        parts.append(question[at : found.start()])
        at = found.end()
        if found["minus"] or found["word"]:
            excluded[said] = None
            at -= len(found["word"] or "") - len(said) if found["word"] else 0
        else:
            phrases[said] = None
            parts.append(said)
    if not phrases and not excluded:
        return Terms(question)
    text = " ".join("".join([*parts, question[at:]]).split())
    return Terms(text if _WORD.search(text) else "", tuple(phrases), tuple(excluded))


def _said(found: re.Match[str]) -> str | None:
    """Return the words that an operator stands before or around, or None when it is none."""
    if found["word"]:
        end = len(found["word"])
        while end and not _WORDLIKE.match(found["word"][end - 1]):  # the end of a sentence is no part of it
            end -= 1
        return found["word"][:end] if end > 1 else None
    phrase = " ".join((found["plain"] or found["curly"] or found["angled"] or "").split())
    return phrase if _WORD.search(phrase) else None
