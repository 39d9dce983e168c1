"""Which language a text is in: enough evidence, or none."""

import pytest

from services.ingester.language import SIMPLE, chunk_configurations, text_search_configuration

PARAGRAPHS = {
    "english": (
        "The committee met on Tuesday and decided that the budget for the coming yea"
        "r would be larger than the one before, since the costs of energy have risen."
    ),
    "german": (
        "Der Ausschuss traf sich am Dienstag und beschloss, dass der Haushalt für das kommen"
        "de Jahr größer sein wird als der vorige, weil die Kosten für Energie gestiegen sind."
    ),
    "french": (
        "Le comité s'est réuni mardi et a décidé que le budget de l'année prochaine se"
        "rait plus important que le précédent, car les coûts de l'énergie ont augmenté."
    ),
    "spanish": (
        "El comité se reunió el martes y decidió que el presupuesto para el próximo "
        "año será mayor que el anterior, porque los costes de la energía han subido."
    ),
    "italian": (
        "Il comitato si è riunito martedì e ha deciso che il bilancio per il prossimo anno"
        " sarà più grande di quello precedente, perché i costi dell'energia sono aumentati."
    ),
    "portuguese": (
        "A comissão reuniu-se na terça-feira e decidiu que o orçamento para o próx"
        "imo ano será maior do que o anterior, porque os custos da energia subiram."
    ),
    "dutch": (
        "De commissie kwam dinsdag bijeen en besloot dat de begroting voor het komende "
        "jaar groter zal zijn dan de vorige, omdat de kosten van energie zijn gestegen."
    ),
    "swedish": (
        "Kommittén träffades på tisdagen och beslutade att budgeten för nästa år "
        "ska vara större än den förra, eftersom kostnaderna för energi har stigit."
    ),
    "danish": (
        "Udvalget mødtes tirsdag og besluttede, at budgettet for det kommende år skal være større end"
        " det forrige, fordi omkostningerne til energi er steget, og det blev ikke nemmere af krisen."
    ),
    "norwegian": (
        "Komiteen møttes tirsdag og bestemte at budsjettet for det kommende året skal være større en"
        "n det forrige, fordi kostnadene til energi har steget, og det ble ikke enklere etter krisen."
    ),
    "finnish": (
        "Valiokunta kokoontui tiistaina ja päätti, että ensi vuoden talousarvio on suurempi ku"
        "in edellinen, koska energian kustannukset ovat nousseet, mutta se ei ole vielä varmaa."
    ),
    "hungarian": (
        "A bizottság kedden ülésezett, és úgy döntött, hogy a jövő évi költségvetés nagy"
        "obb lesz, mint az előző, mert az energia költségei nőttek, de ez még nem biztos."
    ),
    "turkish": (
        "Komite salı günü toplandı ve gelecek yılın bütçesinin bir önceki yıldan daha büyük olac"
        "ağına karar verdi, çünkü enerji için ödenen bedel çok arttı ve bu daha da artacak gibi."
    ),
    "romanian": (
        "Comitetul s-a întrunit marți și a decis că bugetul pentru anul viitor va f"
        "i mai mare decât cel precedent, pentru că prețurile la energie au crescut."
    ),
    "catalan": (
        "El comitè es va reunir dimarts i va decidir que el pressupost per a l'any vi"
        "nent serà més gran que l'anterior, perquè els costos de l'energia han pujat."
    ),
    "indonesian": (
        "Komite bertemu pada hari Selasa dan memutuskan bahwa anggaran untuk tahun d"
        "epan akan lebih besar dari yang sebelumnya, karena biaya energi telah naik."
    ),
    "irish": (
        "Tháinig an coiste le chéile Dé Máirt agus shocraigh siad go mbeidh an buiséad don bhl"
        "iain seo chugainn níos mó ná an ceann roimhe, mar tá costas an fhuinnimh ag dul suas."
    ),
    "lithuanian": (
        "Komitetas susirinko antradienį ir nusprendė, kad kitų metų biudžetas bus didesnis nei"
        " ankstesnis, nes energijos kainos pakilo, bet tai dar nėra aišku ir apie tai kalbama."
    ),
    "basque": (
        "Batzordea asteartean bildu zen eta erabaki zuen datorren urteko aurrekontua aurrekoa baino h"
        "andiagoa izango dela, energiaren kostuak igo egin direlako, baina hau ez da oraindik ziurra."
    ),
    "russian": (
        "Комитет собрался во вторник и решил, что бюджет на следующий год будет боль"
        "ше, чем предыдущий, потому что цены на энергию выросли, но это ещё не точно."
    ),
    "serbian": (
        "Одбор се састао у уторак и одлучио да ће буџет за следећу годину бити већи"
        " од претходног, јер су трошкови енергије порасли, али то још није сигурно."
    ),
    "greek": (
        "Η επιτροπή συνεδρίασε την Τρίτη και αποφάσισε ότι ο προϋπολογισ"
        "μός του επόμενου έτους θα είναι μεγαλύτερος από τον προηγούμενο."
    ),
    "arabic": (
        "اجتمعت اللجنة يوم الثلاثاء وقررت أن ميزانية العام المقبل ستكون أكبر من"
        " السابقة لأن تكاليف الطاقة التي ارتفعت في هذا العام كانت على مستوى عال."
    ),
    "hindi": (
        "समिति की मंगलवार को बैठक हुई और यह तय किया गया कि अगले साल का बजट पिछले से बड़ा होगा क्योंकि ऊर्जा के दाम बढ़ गए हैं।"
    ),
    "nepali": ("समितिको बैठक मंगलबार बस्यो र अर्को वर्षको बजेट अघिल्लो भन्दा ठूलो हुने निर्णय गरेको छ तर यो पनि निश्चित छैन।"),
    "armenian": ("Հանձնաժողովը հավաքվեց երեքշաբթի օրը և որոշեց, որ հաջորդ տարվա բյուջեն ավելի մեծ կլինի, քան նախորդը։"),
    "tamil": ("குழு செவ்வாய்க்கிழமை கூடி அடுத்த ஆண்டிற்கான வரவு செலவுத் திட்டம் முந்தையதை விட பெரியதாக இருக்கும் என்று முடிவு செய்தது."),
    "yiddish": (
        "די קאמיטעט האט זיך געטראפן דינסטיק און באשלאסן אז דער בודזשעט פ"
        "ֿון דעם קומענדיקן יאר וועט זיין גרעסער, און דאס איז נישט זיכער."
    ),
}
UNSTEMMED = {
    "japanese": "委員会は火曜日に会合を開き、来年の予算は前年より大きくすることを決定した。",
    "hebrew": "הוועדה נפגשה ביום שלישי והחליטה כי התקציב של השנה הבאה יהיה גדול יותר מן הקודם, אבל זה לא סופי.",
    "ukrainian": "Комітет зібрався у вівторок і вирішив, що бюджет на наступний рік буде більшим, ніж попередній, тому що ціни зросли.",
    "polish": "Komitet zebrał się we wtorek i postanowił, że budżet na przyszły rok będzie większy niż poprzedni, ponieważ koszty wzrosły.",
    "czech": "Výbor se sešel v úterý a rozhodl, že rozpočet na příští rok bude větší než předchozí, protože ceny vzrostly.",
}
NO_PROSE = {
    "c": "for (int i = 0; i < n; i++) { if (x[i] == NULL) { return -1; } else { total += x[i]->value; } }",
    "python": "def find(self, key):\n  for row in self.rows:\n    if row['key'] == key and not row['is_gone']:\n      return row\n",
    "json": '{"name": "pump", "limits": {"low": 3, "high": 9}, "tags": ["a", "b"]}',
    "table": "2021 | 14.2 | 88.1 | 3,400\n2022 | 15.9 | 91.4 | 3,811\n2023 | 17.0 | 90.2 | 4,120",
    "names": "ACME-1 | Berlin | 12\nACME-2 | Paris | 13\nACME-3 | Roma | 14\nACME-4 | Wien | 22",
    "numbers": "3.14159 2.71828 1.41421 1.73205 0.57721 1.61803 4.66920 2.50290",
}
ENGLISH_CHUNKS = [
    "The odds ratio was 1.93 (95% CI, 1.06-3.52; P = .03), and in the second group it was 2.31 (95% CI, 1.60-3.33; P < .001).",
    "Installation\n- Requirements\n- Supported platforms\n- Known limitations",
    "Table 3",
]


@pytest.mark.parametrize("language", PARAGRAPHS)
@pytest.mark.parametrize("document", ["english", "german", "russian", SIMPLE])
def test_paragraph_tells_its_language_in_any_document(language: str, document: str):
    assert text_search_configuration(PARAGRAPHS[language]) == language
    assert chunk_configurations([PARAGRAPHS[language]], document) == [language]


@pytest.mark.parametrize("language", UNSTEMMED)
@pytest.mark.parametrize("document", ["english", "russian", SIMPLE])
def test_language_without_a_stemmer_is_simple(language: str, document: str):
    assert text_search_configuration(UNSTEMMED[language]) == SIMPLE
    assert chunk_configurations([UNSTEMMED[language]], document) == [SIMPLE]


@pytest.mark.parametrize("kind", NO_PROSE)
@pytest.mark.parametrize("document", ["english", SIMPLE])
def test_code_tables_and_numbers_are_simple(kind: str, document: str):
    assert text_search_configuration(NO_PROSE[kind]) == SIMPLE
    assert chunk_configurations([NO_PROSE[kind]], document) == [SIMPLE]


@pytest.mark.parametrize("text", ENGLISH_CHUNKS)
def test_chunk_without_evidence_is_read_as_its_document(text: str):
    assert chunk_configurations([text], "english") == ["english"]


def test_mixed_document_has_the_language_of_each_part():
    texts = [PARAGRAPHS["german"], PARAGRAPHS["english"], NO_PROSE["c"], "Anhang 3", PARAGRAPHS["greek"]]
    assert text_search_configuration(" ".join([PARAGRAPHS["german"], *texts])) == "german"
    assert chunk_configurations(texts, "german") == ["german", "english", "simple", "german", "greek"]


@pytest.mark.parametrize("text", ["", " \n", "x", "42", "🚢", "\u0301", "word " * 100_000, "'", "l'"])
def test_any_text_has_a_configuration(text: str):
    assert text_search_configuration(text) in {"english", SIMPLE}
    assert len(chunk_configurations([text], "english")) == 1


def test_short_text_in_latin_letters_is_taken_for_english():
    assert text_search_configuration("Quarterly figures") == "english"
    assert text_search_configuration("Größe 42") == SIMPLE
