"""Which of the titles that a file claims says what it is about; pure."""

import re

from services.ingester.parsing.writer import folded

# What programs write when nobody gave a title.
_DEFAULT = re.compile(
    r"^(?:(?:untitled|new|word|microsoft word|scanned)? ?(?:document|spreadsheet|presentation|page)?\d*|title|doc\d*"
    r"|(?:table of )?contents|powerpoint presentation|slide ?\d+|no (?:title|job name)|full page photo|none|null|pdf"
    r"|scan|image)$"
)
_PROGRAM = re.compile(
    r"^(?:microsoft (?:word|powerpoint|excel|office \w+)|print|untitled|layout \d+|scan)\s*(?:[-–:_]|\d+$)",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"\.(?:docx?|dotx?|docm|pdf|te?xt?|dvi|e?ps|rtf|odt|pptx?|xlsx?|xlsm|indd|qxd|fm|pmd|html?|xhtml|aspx?|php|md|jpe?g|png|tiff?|cdr|wpd)$",
    re.IGNORECASE,
)
_PATH = re.compile(r"^(?:[a-z]:\\|\\\\|/|file:|https?:)|^\S+[/\\]\S+$", re.IGNORECASE)
# One word of letters and digits mixed, or with underscores, names a file or a job, not a subject: `glxz-10k_20211231`.
_JOB = re.compile(r"^(?=\S*[\d_])(?=\S{8,}$)[\w.-]+$|^[a-z0-9]+(?:[-_][a-z0-9]+)+$")
_CHARACTERS_MAX = 1000


def meaningful_title(claimed: str | None) -> str | None:
    """Return a claimed title, or None for names of files and jobs, and for what programs write by themselves."""
    title = folded((claimed or "")[:_CHARACTERS_MAX])
    letters = sum(character.isalpha() for character in title)
    if (
        not letters
        or len(title) < 2
        or 3 * letters < len(title)
        or "\N{REPLACEMENT CHARACTER}" in title
        or "://" in title
    ):
        return None
    if _DEFAULT.match(title.lower().strip(" .-_")) or _PROGRAM.match(title):
        return None
    if _FILE.search(title) or _PATH.search(title) or _JOB.match(title):
        return None
    return title
