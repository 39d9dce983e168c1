"""What a model writes → what is shown: its `[n]` markers checked against the sources while it streams; pure.

**Invariants:** in whatever pieces a text comes, the same is shown; outside of code no marker is shown that names no
source; code between backticks is shown as it came.

A marker is `[1]`, `[1, 3]`, `[1-3]`, `[^1]`, `[Source 1]`, also in full-width brackets; it is shown as `[1]` or `[1][3]`.
These are no markers: what stands between backticks; what holds 0 or more than three digits (`[0, 1]`, `[2024]`); links
(`[1](…)`); an index behind a one-letter or snake_case name, or before code (`x[12]`, `row_ids[3]`, `items[3].name`).
"""

import re
from dataclasses import dataclass

# What a model writes when the sources do not hold the answer; never shown.
NOT_IN_SOURCES = "NOT_IN_SOURCES"
GROUP_CHARACTERS_MAX = 60
SPACES_HELD_MAX = 8
TICKS_HELD_MAX = 64
FENCE_CHARACTERS_MIN = 3
WORD_CHARACTERS_MAX = 64
AHEAD = 2

_NUMBER = r"[0-9０-９]{1,3}"
_GROUP = re.compile(
    rf"[\[【［][ \t]*(?:\^|(?i:sources?)[ \t]*)?#?"
    rf"(?P<items>{_NUMBER}(?:[ \t]*[,;，、–—-][ \t]*{_NUMBER})*)"
    r"[ \t]*(?:†[^\[\]【】［］\n]*)?[\]】］]"
)
# What may still become a group when more comes.
_UNFINISHED = re.compile(r"[\[【［][ \t^#0-9０-９,;，、–—sourceSOURCE-]*(?:†[^\[\]【】［］\n]*)?")
_ITEM = re.compile(rf"({_NUMBER})(?:[ \t]*[–—-][ \t]*({_NUMBER}))?")
_PLAIN = re.compile(r"[^`~\[【［\n \t]+")
_SPACES = re.compile(rf"[ \t]{{1,{SPACES_HELD_MAX + 1}}}")
_TICKS = re.compile(rf"`{{1,{TICKS_HELD_MAX}}}|~{{1,{TICKS_HELD_MAX}}}")
_IN_CODE = re.compile(r"[^`~\n]+")
_LAST_WORD = re.compile(r"[A-Za-z0-9_]+\Z")
_NAME = re.compile(r"[a-z]|\w*_\w*")
_CODE_BEHIND = re.compile(r"\(|=|\.[a-z_]| =|->|_")
_OPENERS = "[【［"
_SHOWN_MARKERS = re.compile(r"(?:\[\d{1,3}\])+")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an answer names a source: its marker is the characters from `start` to `end`."""

    index: int
    start: int
    end: int

    def moved(self, by: int) -> "Mark":
        """Return it as it stands in a text that begins elsewhere."""
        return Mark(self.index, self.start + by, self.end + by)


class Markers:
    """Shows a text that comes in pieces, and remembers which sources it cites, and where."""

    def __init__(self, source_count: int) -> None:
        self.cited: list[int] = []
        self.marks: list[Mark] = []
        self._shown_characters = 0
        self._source_count = source_count
        self._held = ""
        self._is_ended = False
        self._closing = ""  # the run that ends the code that we are in
        self._is_block = False  # that code goes on over lines
        self._may_be_block = False  # it does when its first line ends before it
        self._is_line_blank = True
        self._word = ""
        self._is_index = False  # what was shown last is an index, so what is attached to it is one too
        self._owed = ""  # the spaces before a marker that was dropped, for one that is attached to it
        self._drops_spaces = False

    def feed(self, piece: str) -> str:
        """Return what may be shown now."""
        self._held += piece
        return self._drain()

    def finish(self) -> str:
        """Return the rest."""
        self._is_ended = True
        return self._drain()

    def _drain(self) -> str:
        shown = []
        at = 0
        while at < len(self._held):
            step = self._step_in_code(at) if self._closing else self._step(at)
            if step is None:
                break
            end, text = step
            shown.append(text)
            self._shown_characters += len(text)
            at = end
        self._held = self._held[at:]
        return "".join(shown)

    def _step(self, at: int) -> tuple[int, str] | None:
        """Return where the next part ends and what of it is shown, or None while more is needed to tell."""
        char = self._held[at]
        if char == "\n":
            self._begin_line()
            return at + 1, char
        if char in "`~":
            return self._open_code(at)
        if char in " \t":
            return self._spaces(at)
        if char in _OPENERS:
            return self._group(at, at)
        found = _PLAIN.match(self._held, at)
        assert found
        return found.end(), self._show(found.group())

    def _step_in_code(self, at: int) -> tuple[int, str] | None:
        if self._held[at] == "\n":
            self._is_block = self._is_block or self._may_be_block
            if not self._is_block:
                self._closing = ""  # never closed in its line: it was no code
            self._begin_line()
            return at + 1, "\n"
        if self._held[at] not in "`~":
            found = _IN_CODE.match(self._held, at)
            assert found
            self._is_line_blank = self._is_line_blank and found.group().isspace()
            return found.end(), found.group()
        run = self._run(at)
        if run is None:
            return None
        if (self._is_line_blank and run.startswith(self._closing)) if self._is_block else run == self._closing:
            self._closing, self._is_block = "", False
        return at + len(run), self._show(run)

    def _open_code(self, at: int) -> tuple[int, str] | None:
        run = self._run(at)
        if run is None:
            return None
        self._may_be_block = self._is_line_blank and len(run) >= FENCE_CHARACTERS_MIN
        if run[0] == "`" or self._may_be_block:
            self._closing = run
        return at + len(run), self._show(run)

    def _run(self, at: int) -> str | None:
        """Return the whole run of backticks or tildes, or None while it may grow."""
        found = _TICKS.match(self._held, at)
        assert found
        if found.end() == len(self._held) and len(found.group()) < TICKS_HELD_MAX and not self._is_ended:
            return None
        return found.group()

    def _spaces(self, at: int) -> tuple[int, str] | None:
        found = _SPACES.match(self._held, at)
        assert found
        if len(found.group()) > SPACES_HELD_MAX:
            return at + 1, self._space(found.group()[:1])
        if found.end() == len(self._held):
            return (found.end(), self._space(found.group())) if self._is_ended else None
        if self._held[found.end()] in _OPENERS:
            return self._group(at, found.end())
        return found.end(), self._space(found.group())

    def _group(self, at: int, opening: int) -> tuple[int, str] | None:
        """Read what stands in brackets at `opening`, behind the spaces from `at`."""
        spaces = self._held[at:opening] or self._owed
        found = _GROUP.match(self._held, opening, opening + GROUP_CHARACTERS_MAX)
        if found is None:
            unfinished = _UNFINISHED.match(self._held, opening)
            assert unfinished
            if (
                unfinished.end() == len(self._held)
                and len(unfinished.group()) < GROUP_CHARACTERS_MAX
                and not self._is_ended
            ):
                return None
            return opening + 1, self._space(spaces) + self._show(self._held[opening])
        behind = self._held[found.end() : found.end() + AHEAD]
        if len(behind) < AHEAD and not self._is_ended:
            return None
        numbers = self._numbers(found["items"])
        if numbers is None or behind.startswith("(") or (not spaces and self._is_indexing(behind)):
            shown = self._space(spaces) + self._show(found.group())
            self._is_index = True
            return found.end(), shown
        return found.end(), self._mark(spaces, numbers)

    def _is_indexing(self, behind: str) -> bool:
        return self._is_index or bool(self._word and (_NAME.fullmatch(self._word) or _CODE_BEHIND.match(behind)))

    def _numbers(self, items: str) -> list[int] | None:
        """Return the sources that a group names, without those that there are not; None when it is no marker."""
        numbers: list[int] = []
        for first, last in _ITEM.findall(items):
            low, high = int(first), int(last or first)
            if low == 0 or high == 0:
                return None
            numbers += range(low, min(high, self._source_count) + 1)
        return [number for number in dict.fromkeys(numbers) if number <= self._source_count]

    def _mark(self, spaces: str, numbers: list[int]) -> str:
        if not numbers:
            # The spaces go with what is dropped: those before it, or at the beginning of a line those behind it.
            self._drops_spaces, self._owed = self._is_line_blank, spaces
            return ""
        self.cited += [number for number in numbers if number not in self.cited]
        shown = self._space(spaces)
        for number in numbers:
            start = self._shown_characters + len(shown)
            shown += f"[{number}]"
            self.marks.append(Mark(number, start, self._shown_characters + len(shown)))
        self._show("]")
        return shown

    def _space(self, spaces: str) -> str:
        if not spaces or self._drops_spaces:
            return ""
        self._word, self._owed, self._is_index = "", "", False
        return spaces

    def _show(self, text: str) -> str:
        word = _LAST_WORD.search(self._word + text)
        self._word = word.group()[-WORD_CHARACTERS_MAX:] if word else ""
        self._owed = ""
        self._is_line_blank = self._drops_spaces = self._is_index = False
        return text

    def _begin_line(self) -> None:
        self._is_line_blank = True
        self._drops_spaces = self._is_index = False
        self._word = self._owed = ""


class Draft:
    """An answer as it grows: markers checked, and the model's word for "not in the sources" never shown."""

    def __init__(self, source_count: int) -> None:
        self.is_refusal = False
        self._markers = Markers(source_count)
        self._held = ""
        self._shown: list[str] = []

    @property
    def text(self) -> str:
        """What was shown so far."""
        return "".join(self._shown)

    @property
    def cited(self) -> list[int]:
        """The sources that the answer cites, in order of their first marker."""
        return self._markers.cited

    @property
    def marks(self) -> list[Mark]:
        """Where `text` names them."""
        return self._markers.marks

    def feed(self, piece: str) -> str:
        """Return what may be shown now."""
        if self.is_refusal:
            return ""
        text = _whole(self._held + piece)
        if NOT_IN_SOURCES in text:
            self.is_refusal = True
            return ""
        held = _held_back(text)
        self._held = text[len(text) - held :]
        return self._show(self._markers.feed(text[: len(text) - held]))

    def finish(self) -> str:
        """Return the rest."""
        if self.is_refusal:
            return ""
        rest, self._held = self._held, ""
        return self._show(self._markers.feed(_repaired(rest)) + self._markers.finish())

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text


def claims(text: str) -> dict[int, str]:
    """Return for each source what a shown text claims of it: what stands before its markers, in its line."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        start = 0
        for marker in _SHOWN_MARKERS.finditer(line):
            for number in map(int, re.findall(r"\d+", marker.group())):
                found[number] = f"{found.get(number, '')} {line[start : marker.start()]}".strip()
            start = marker.end()
    return found


def unmarked(text: str) -> str:
    """Return an earlier answer without its markers, which number other sources."""
    markers = Markers(0)
    return markers.feed(text) + markers.finish()


def _held_back(text: str) -> int:
    """Return how many characters at the end may be the beginning of the word, or half of a character."""
    if text and "\ud800" <= text[-1] <= "\udbff":
        return 1
    longest = min(len(text), len(NOT_IN_SOURCES) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(NOT_IN_SOURCES[:n])), 0)


def _whole(text: str) -> str:
    """Join characters that came in halves; a half at the end may still get its other one."""
    if not text or not "\ud800" <= text[-1] <= "\udbff":
        return _repaired(text)
    return _repaired(text[:-1]) + text[-1]


def _repaired(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
