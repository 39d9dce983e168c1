"""A question that leans on those before it → one that can be looked for by itself; pure.

**Invariants:** the question's own words stand first and unchanged; what is added are words of the caller's earlier
questions, never of an answer, which may hold anything; the same conversation always gives the same question.

A question leans on earlier ones when it points back ("how long is *it* kept?"), goes on from them ("*and* the weekly
one?"), or holds next to nothing to look for ("why?").
"""

import re
from collections.abc import Sequence

from services.query.prompt import Turn

# So far back a question may lean; a chain of "and …?" is followed to the question that it began with.
QUESTIONS_READ_MAX = 4
WORDS_ADDED_MAX = 12
CHARACTERS_READ_MAX = 2000
# A question with more words to look for stands by itself, whatever it begins with.
POINTING_WORDS_MAX, CONTINUED_WORDS_MAX = 5, 2
WIDE_CHARACTERS_MAX = 7

_WORD = re.compile(r"\w(?:[\w.:/+#-]*\w)?")
# Scripts without spaces: there a short question is one that leans.
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that point at something which was named before, in English, German, French and Spanish.
_POINTING = _words("""
    it its itself they them their theirs he him his she her hers those these
    dieser diese dieses diesen diesem deren dessen ihm ihn ihnen davon dafür dazu damit darin daran dabei dort
    celui celle ceux celles leur leurs lui eux
    ello ellos ellas este esta estos estas ese esa esos esas suyo
""")
# Words that point only where little else is asked for: "is there …" and "the file that …" point at nothing.
_WEAKLY_POINTING = _words("""
    this that there one ones same other others former latter es das sie er y en eso esto
""")
_CONTINUING = _words("""
    and or but so then also in on at for from by with without und oder aber für mit ohne et ou mais alors y o pero
""")
_ABOUT = frozenset([("what", "about"), ("how", "about")])
# Words that say how something is asked, not what for.
_ASKING = _CONTINUING | _words("""
    a an the of to about as into than is are was were be been being am do does did done has have had can could will would
    shall should may might must what which who whom whose when where why how many much long often i you we me my your our us
    please tell give show explain more again not no yes any some if while
    der die das den dem des ein eine einen einem einer eines im am um zu zum zur von vom auf aus bei nach über unter ist sind
    war waren sein hat haben hatte wird werden kann können muss müssen soll was wer wen wem wie wo wann warum welche welcher
    welches viel viele lange oft ich du sie wir mir bitte mehr nicht kein keine es gibt denn auch
    le la les un une des du de au aux à dans sur pour par avec sans est sont était être ont avoir peut que qui quoi quand où
    pourquoi comment combien quel quelle quels quelles je tu il elle nous vous ce cette ces ne pas plus
    el los las una unos unas del al con sin por para son era ser ha han tiene puede quien qué quién cuándo dónde cómo cuánto
    cuántos cuál cuáles yo tú nosotros más sí hay
""")


def stand_alone(question: str, history: Sequence[Turn]) -> str:
    """Return the question with what it leans on, or as it is when it leans on nothing.

    Order: the question, then the words that are added as they were first said.
    """
    if not leans(question):
        return question
    earlier = [turn.content[:CHARACTERS_READ_MAX] for turn in history if turn.role == "user"]
    own = {word.casefold() for word in _WORD.findall(question)}
    added: list[list[str]] = []
    for said in reversed(earlier[-QUESTIONS_READ_MAX:]):
        added.append(_salient(said))
        if not leans(said):
            break
    words: dict[str, str] = {}
    for word in (word for salient in reversed(added) for word in salient):
        if word.casefold() not in own:
            words.setdefault(word.casefold(), word)
    return " ".join([question, *list(words.values())[:WORDS_ADDED_MAX]])


def leans(question: str) -> bool:
    """Whether a question says too little to be looked for by itself."""
    wide = len(_WIDE.findall(question))
    if wide:
        return wide <= WIDE_CHARACTERS_MAX
    words = [word.casefold() for word in _WORD.findall(question)]
    if not words:
        return True
    count = len(_salient(question))
    if not _POINTING.isdisjoint(words):
        return count <= POINTING_WORDS_MAX
    if words[0] in _CONTINUING or tuple(words[:2]) in _ABOUT or not _WEAKLY_POINTING.isdisjoint(words):
        return count <= CONTINUED_WORDS_MAX
    return not count


def _salient(text: str) -> list[str]:
    """Return the words to look for."""
    small = _ASKING | _POINTING | _WEAKLY_POINTING
    return [word for word in _WORD.findall(text) if word.casefold() not in small]
