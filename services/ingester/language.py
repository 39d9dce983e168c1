"""Which text-search configuration fits a text; pure.

Words of grammar tell the languages of one script apart, a script tells the others. What holds few of them, or more signs and
numbers than a sentence has, is code, a table or a list of names: `simple` stems nothing there, and so harms nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

SIMPLE = "simple"
_SAMPLE_CHARACTERS = 20_000
_CHUNK_CHARACTERS = 2_000
# So many words of grammar make a language likely; a share of them that prose has and lists of names have not.
_HITS_MIN = 3.0
_SHARE_MIN = 0.08
# How much more another language needs than that of the document: quotations and titles are no change of language.
_PRIOR_BONUS = 2.0
# Of what is not space: prose has more than 0.9 letters, and 0.5 where it tells of measurements; code has more signs.
_LETTERS_MIN = 0.45
_SIGNS_MAX = 0.08
_SIGNS = frozenset('{}[]<>=;_|\\"$#@*&^~`')
# Fewer words than that are read as their document is.
_WORDS_MIN = 12
# Fewer characters than that say nothing by their signs.
_SIGNED_CHARACTERS_MIN = 40
# Some scripts write vowels as marks, which are no letters.
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0b82\u0bbe-\u0bcd"
_WORD = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+(?:['\u2019][^\W\d_]+)?")
_MARK = re.compile(f"[{_MARKS}]")

_LATIN = "a"
_WORDS: dict[str, str] = {
    "basque": "eta da ez du dira dute izan zen bat hau hori baina ere egin den dituzte dela zuen duen ziren bere bezala arte beste oso"
    " gero batean zuten dago nahi izango edo behar dago hala baino dutenak horrek",
    "catalan": "el la els les de del dels i a en un una que es per amb no és són va han ha més com però seva seu aquest aquesta"
    " també ser entre quan sobre fins on molt tot pels als al o si ni ja perquè les nostre",
    "danish": "og i at det er en den til af på de med for ikke der han var som et har jeg men om vi blev havde fra kan skal når"
    " eller hvad også efter blive meget nu sig sin kunne hun mod ud bliver været hvor nogle",
    "dutch": "de het een en van ik te dat die in is niet zijn op aan met als voor er maar om hem dan zou of wat mijn dit zo door"
    " over ze zich bij ook tot je mij uit der naar heeft hebben deze want nog worden wordt werd wel geen kan deze haar",
    "english": "the and of to is that for with this are was have from which not you be it as on in by or an at can if will has but"
    " were when all their they been we its when there how what would these your more than may do about who where",
    "finnish": "ja on ei että se oli hän mutta ovat joka kun niin myös tai ole mukaan olivat sitä jotka kuin tämä sen hänen voi"
    " olla jos vain vielä noin kanssa sekä siitä tässä ollut jälkeen ennen mitä ovat nyt sitten minä",
    "french": "le la les de des du et un une que qui est dans en pour pas sur au aux avec ce se plus ne sont par il elle nous vous"
    " être ont cette ou mais son sa ses leur comme été fait a je on tout même sans ces aussi peut d'un d'une c'est qu'il n'est",
    "german": "der die das und ist in zu den von mit sich des auf für nicht ein eine als auch dem es an werden aus er hat dass sie"
    " nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch man wenn kann",
    "hungarian": "a az és hogy nem is egy ez meg de volt csak már van mint ha el azt kell még vagy ki lehet fel minden lesz azonban"
    " mert pedig után más amely ezt így nagy között szerint olyan volna voltak közben ami ők nincs",
    "indonesian": "yang dan di dengan untuk dari dalam ini itu tidak pada adalah akan ke oleh sebagai juga dapat atau ada telah saya"
    " mereka karena lebih bisa tersebut sudah kami anda seperti oleh bahwa harus saat secara tahun hanya antara setiap",
    "irish": "agus an na ar is go sé a i le ag don bhí tá sin seo ach chun féin raibh leis nach mar ní siad mé tú sí dá faoi gur"
    " bhfuil as idir gach eile nó roimh againn acu air aige anois thar",
    "italian": "il lo la i gli le di e che è un una in per non con del della dei delle al alla da si sono come anche ma più nel nella"
    " dal questo questa ha hanno essere ci se o su molto tra suo sua loro stato dalla sulla cui così quando perché degli",
    "lithuanian": "ir yra kad į iš su ne tai buvo ar kaip bet jis taip apie per už tik prie po nuo jo dar gali kai jie ji jau labai"
    " arba turi šis ši būti metų savo pagal jų kurie kuris kuri nors bei dėl",
    "norwegian": "og i det er en på å som for til av med ikke at den de var har jeg et han om vi men fra seg kan skal hun ble så når"
    " eller hva også etter bli mye nå sin kunne mot ut blir vært noen være mellom under der dette disse",
    "portuguese": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou"
    " ser quando muito nos já está eu também só pelo pela até isso ela entre era depois sem são você pode este esta",
    "romanian": "și de la în a cu nu pe o un este că din se care pentru mai sunt ce fi al au fost prin după sau dar lui dintre către"
    " ca ale acest această foarte când era poate astfel între fără toate asupra decât avea ei",
    "spanish": "de la que el en y a los del se las por un para con no una su al lo como más pero sus le ya o este sí porque esta"
    " entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante es son ha está fue puede ser",
    "swedish": "och i att det som en på är av för med den till inte han de ett om var jag men sig från vi så har kan när hade ska år"
    " eller vad också efter blir mycket nu sin skulle hon mot ut blev varit där detta dessa under mellan utan vid bara",
    "turkish": "ve bir bu için ile de da çok olarak daha gibi olan en ne kadar sonra var değil her ama ya ki o ben olduğu yok mi"
    " ancak sadece ise tarafından ilk böyle bunun göre veya önce şu hem nasıl şey",
}
# Languages that Postgres does not stem are read as `simple`, and are known lest they be taken for another one.
_UNSTEMMED: dict[str, str] = {
    "polish": "i w na z się nie do to że jest o jak po co od za dla ale tak przez przy są był było oraz który która które jego może"
    " tego tym czy już tylko być więc także będzie niż ponieważ ten ta te",
    "czech": "a v na se je že to s z do o k i pro za by ale jako jsou po jeho které který byl jsem tak při jak od nebo bylo až také"
    " aby ve než jen který která být má již podle",
    "croatian": "i je u da se na su za od s ne koji što kao ali ili bi iz nije bila bio ovaj koje samo može kako zbog do će njegov"
    " između biti također jer",
    "estonian": "ja on ei et see ta oli kui ka mis oma aga ning nii selle kes või siis ole olid veel mida nad tema seda pärast kuid",
    "latvian": "un ir par no ar uz kas tas bija ka arī kā bet pie pēc vai to nav ko tā pat līdz viņš savu gadā tika",
    "vietnamese": "là của và có trong được cho các một không với những này người đã khi từ như đến về ra cũng để vào",
    "afrikaans": "die en van het in is dat nie vir sy hy was ook met om aan wat as te by hulle maar deur word baie moet",
}
# Of languages that share a script with others; what has none of these words is read as `simple`.
_CYRILLIC: dict[str, str] = {
    "russian": "и в не на что он с как это по но из у за от же так для вы или если бы было его была когда только ее к мы они этого"
    " может быть был чтобы также при до том которые является",
    "serbian": "је и у да се на су за од са не који што као али или то би из што није након када била био овај које само може како"
    " због до ће његов њен између бити",
    "": "і та що є як від до не це для або його вона був були які також після може той й цей із ще тільки коли"
    " и на да се за от не са със които който като по това също може след или през има беше"
    " што якія гэта ў але пры каб яго ёсць",
}
_ARABIC: dict[str, str] = {
    "arabic": "في من على إلى أن التي هذا عن مع الذي هذه كان ما لا أو كما بين كل قد هو هي ذلك بعد عند لم حيث",
    "": "در از به که این را با است برای آن می های کرد شد یک ها تا بر هم یا ہے میں کے کی کا سے اور کو نے پر یہ تھا ہیں",
}
_DEVANAGARI: dict[str, str] = {
    "hindi": "के है में की और को से का यह एक पर हैं कि इस ने भी लिए नहीं तो हो था कर या वह जो गया",
    "nepali": "को छ र मा ले यो पनि छन् हो का एक गर्न भएको गरेको लागि थियो तर हुन्छ भने यस",
    "": "आहे आणि या च्या ते आहेत होते केले हा ही त्या",
}
_HEBREW: dict[str, str] = {
    "yiddish": "איז און די דער פֿון פון אין צו דאָס דאס אַ א נישט האָט האט מיט זיך אויף פאַר פאר װאָס וואס ער זיי",
    "": "של את על לא הוא זה עם גם היא כי או אל אני מה יש כל היה הם אבל אם",
}
# Scripts of one language that Postgres stems, by a range of their letters.
_SCRIPTS: tuple[tuple[str, str, dict[str, str] | str], ...] = (
    ("\u0370", "\u03ff", "greek"),
    ("\u0400", "\u04ff", _CYRILLIC),
    ("\u0530", "\u058f", "armenian"),
    ("\u0590", "\u05ff", _HEBREW),
    ("\u0600", "\u06ff", _ARABIC),
    ("\u0900", "\u097f", _DEVANAGARI),
    ("\u0b80", "\u0bff", "tamil"),
)


def _weights(languages: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return by word what it says for each language: the less, the more languages have it."""
    members: dict[str, set[str]] = {}
    for language, words in languages.items():
        for word in words.split():
            members.setdefault(word, set()).add(language)
    return {word: dict.fromkeys(found, 1 / len(found) ** 0.5) for word, found in members.items()}


_LATIN_WEIGHTS = _weights(_WORDS | _UNSTEMMED)
_SCRIPT_WEIGHTS = {low: _weights(words) for low, _, words in _SCRIPTS if isinstance(words, dict)}


def text_search_configuration(sample: str) -> str:
    """Return the configuration of a document by its beginning; `simple` when no language is evident.

    Short texts count as English, which is what the bundled model reads.
    """
    text = sample[:_SAMPLE_CHARACTERS]
    words = _WORD.findall(text.lower())
    language, _ = _detect(text, words)
    if language is None and len(words) < 50 and text.isascii() and _is_prose(text):
        return "english"
    return language or SIMPLE


def chunk_configurations(texts: Sequence[str], document: str) -> list[str]:
    """Return the configuration of each chunk of a document that is written in `document` as a whole."""
    return [_chunk_configuration(text[:_CHUNK_CHARACTERS], document) for text in texts]


def _chunk_configuration(text: str, document: str) -> str:
    words = _WORD.findall(text.lower())
    if not _is_prose(text):
        return SIMPLE if len(text) >= _SIGNED_CHARACTERS_MIN else document
    script = _script_of(words)
    if script is None or (script != _script_of_configuration(document) and document != SIMPLE):
        return _detect(text, words)[0] or SIMPLE
    language, weight = _detect(text, words, prior=document)
    if language is None or (len(words) < _WORDS_MIN and weight < 2 * _HITS_MIN):
        return document
    return language


def _is_prose(text: str) -> bool:
    visible = "".join(text.split())
    letters = sum(map(str.isalpha, visible)) + (0 if visible.isascii() else len(_MARK.findall(visible)))
    signs = sum(map(_SIGNS.__contains__, visible))
    return letters >= _LETTERS_MIN * len(visible) and signs <= _SIGNS_MAX * len(visible)


def _detect(text: str, words: Sequence[str], *, prior: str = "") -> tuple[str | None, float]:
    """Return the most likely language that Postgres stems with the weight of its words, or None."""
    script = _script_of(words)
    if script is None or not _is_prose(text):
        return None, 0.0
    if script == _LATIN:
        language, weight = _by_words(words, _LATIN_WEIGHTS, prior)
        return (SIMPLE if language in _UNSTEMMED else language), weight
    known = next(known for low, _, known in _SCRIPTS if low == script)
    return (known, float(len(words))) if isinstance(known, str) else _by_words(words, _SCRIPT_WEIGHTS[script], prior)


def _script_of(words: Sequence[str]) -> str | None:
    """Return the script of most words, or None when it is not known."""
    counts = Counter(_script(word[0]) for word in words[:400])
    script, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return script if count >= 0.6 * counts.total() else None


def _script_of_configuration(configuration: str) -> str:
    for low, _, known in _SCRIPTS:
        if configuration == known or (isinstance(known, dict) and configuration in known):
            return low
    return _LATIN


def _script(character: str) -> str | None:
    """Return the first letter of a script that is known, None for others."""
    if character < "\u0250" or "\u1e00" <= character < "\u1f00":
        return _LATIN
    return next((low for low, high, _ in _SCRIPTS if low <= character <= high), None)


def _by_words(words: Sequence[str], weights: dict[str, dict[str, float]], prior: str) -> tuple[str | None, float]:
    scores: dict[str, float] = {}
    for word in _without_elisions(words):
        for language, weight in weights.get(word, {}).items():
            scores[language] = scores.get(language, 0.0) + weight
    if prior in scores:
        scores[prior] *= _PRIOR_BONUS
    if not scores:
        return None, 0.0
    language, score = max(scores.items(), key=lambda item: item[1])
    is_evident = score >= _HITS_MIN and score >= _SHARE_MIN * len(words)
    return (language or SIMPLE, score) if is_evident else (None, 0.0)


def _without_elisions(words: Iterable[str]) -> Iterable[str]:
    """Yield `l'` of `l'homme` apart: it is no word of a list, but what follows it may be one."""
    for word in words:
        head, _, rest = word.replace("\u2019", "'").partition("'")
        yield word
        if rest:
            yield head
            yield rest
