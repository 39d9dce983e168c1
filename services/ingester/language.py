"""Which text-search configuration fits a text; pure."""

_SAMPLE_CHARACTERS = 20_000
# Function words that the other languages of the same script seldom use.
_ENGLISH = frozenset(
    [
        "the",
        "and",
        "of",
        "to",
        "is",
        "that",
        "for",
        "with",
        "this",
        "are",
        "was",
        "have",
        "from",
        "which",
        "not",
        "you",
        "be",
        "it",
        "as",
        "on",
    ]
)
_ENGLISH_SHARE_MIN = 0.08


def text_search_configuration(sample: str) -> str:
    """Return `english` when the words look English, else `simple`, which stems nothing and so harms nothing.

    Short texts count as English, which is what the bundled model reads.
    """
    words = sample[:_SAMPLE_CHARACTERS].lower().split()
    letters = [character for character in sample[:2000] if character.isalpha()]
    if letters and sum(character.isascii() for character in letters) < 0.7 * len(letters):
        return "simple"
    if len(words) < 50:
        return "english"
    return (
        "english"
        if sum(word.strip(".,;:!?()\"'") in _ENGLISH for word in words) >= _ENGLISH_SHARE_MIN * len(words)
        else "simple"
    )
