"""Short texts in the 8-bit encodings of Europe are read as they were written."""

import pytest

from services.ingester.parsing.alphabets import european_encoding
from services.ingester.parsing.decoding import GUESS_BYTES_MIN, decode

_TEXTS = {
    "cp1250": (
        "Příští schůze se koná ve čtvrtek večer v dolním sále; přineste si prosím žádosti.",
        "Budúci štvrtok sa stretneme v kaviarni, kde ešte nikto z nás nebol: musíme prísť včas, lebo je ďaleko.",
        "Następne zebranie odbędzie się w środę, później pójdziemy nad rzekę łowić ryby.",
        "A következő ülés csütörtökön lesz, ezért előtte küldjük szét a jegyzőkönyvet; ülőhely kevés.",
        "Sljedeći sastanak počinje u četvrtak, a već sutra šaljemo bilješke.",
        "Următoarea întâlnire începe mâine dimineaţă, aşa că vă rugăm să veniţi în sală.",
    ),
    "iso8859-2": (
        "Příští schůze se koná ve čtvrtek večer v dolním sále; přineste si prosím žádosti.",
        "Następne zebranie odbędzie się w środę, później pójdziemy nad rzekę łowić ryby.",
    ),
    "cp1254": ("Bir sonraki toplantı perşembe akşamı büyük salonda yapılacak, lütfen geç kalmayın; çağrı gönderildi.",),
    "cp1257": (
        "Nākamā sanāksme notiks ceturtdien, tāpēc lūdzam paņemt līdzi protokolus.",
        "Kitas susirinkimas įvyks ketvirtadienį, todėl prašome atsinešti užrašus šį vakarą.",
    ),
    "cp1251": (
        "code;name;place;phone;mail;since\n17;Орлова;Тула;+7 4872 555-01-17;orlova@example.org;2019-04-01 08:00:00",
    ),
    "cp1253": ("id;title;updated;author;language\n17;Πρακτικά της συνεδρίασης;2019-04-01T08:00:00Z;unknown;el-GR",),
    "cp1252": (
        "Die nächste Sitzung ist übermorgen im großen Saal; Grüße an alle.",
        "La prochaine réunion aura lieu à l’hôtel où nous étions déjà l’été passé, ça ira.",
        "La próxima reunión será mañana en el salón pequeño; ¿vendrás tú también?",
        "A próxima reunião é amanhã à tarde; não há mais lugares, então tragam cadeiras.",
        "La prossima riunione è giovedì; perciò si può già prenotare più in là, così c’è posto.",
        "Nästa möte är på torsdag, och då får alla väl svara på frågorna.",
        "Næste møde er på torsdag, så må vi få svar på spørgsmålene.",
        "Flights to Tromsø, Bodø, Vardø and Málaga.",
        "Næsti fundur verður á fimmtudaginn, þá svörum við öllum spurningum í síðasta sinn.",
        "3 m² of cloth at 12 £, 25 °C ± 2, half a litre: ½ l, and “quoted” – as said.",
    ),
}
_CASES = [(encoding, text) for encoding, texts in _TEXTS.items() for text in texts]


@pytest.mark.parametrize(("encoding", "text"), _CASES)
def test_text_is_read_in_the_encoding_of_its_language(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == (text, 0)
    longer = "\n".join([text] * (GUESS_BYTES_MIN // len(text) + 1))
    assert decode(longer.encode(encoding)) == (longer, 0)


def test_text_that_no_alphabet_explains_is_left_to_others() -> None:
    assert european_encoding(_TEXTS["cp1251"][0].encode("koi8-r")) is None
    assert european_encoding("закон;срок;лицо;2019-04-01 08:00:00;unknown;unknown".encode("koi8-r")) is None
    assert european_encoding(bytes(range(128, 256))) is None


def test_encoding_that_explains_more_is_preferred() -> None:
    text = "żółć, łęg, ćwierć, mężczyzna, żółw, będę, łóżko, że, żółty, księżyc, róża, ołówek, ośmy. " * 3
    assert decode(text.encode("iso8859-2")) == (text, 0)


def test_encoding_in_which_some_bytes_are_no_text_explains_them_no_better() -> None:
    """A name with a letter of another language: what cp1250 has for it, and for š and ž, are controls in ISO 8859-2."""
    text = (
        "Večer je učenka Kaśka počasi počistila učilnico; ključi čakajo na oče, ki piše članek o čebelah in računa, koliko "
        "čaja še teče čez čolniček. Občina plača učbenike, včasih tudi avtobus, če ga učenci naročijo dovolj zgodaj."
    )
    assert decode(text.encode("cp1250")) == (text, 0)


def test_two_odd_signs_change_no_encoding() -> None:
    text = "³as before, and ³as told"
    assert decode(text.encode("cp1252")) == (text, 0)
