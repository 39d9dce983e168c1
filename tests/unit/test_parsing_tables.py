"""Tables of text become rows that know their columns; nothing that a quote or a comma does loses a word."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import ParsedDocument, parse
from services.ingester.parsing import writer as writer_module
from services.ingester.parsing.blocks import LineUnit
from services.ingester.parsing.delimited import ROW_CHARACTERS_MAX, find_delimiter, parse_delimited
from services.ingester.parsing.registry import CSV, TSV
from services.ingester.parsing.tables import EMPTY_CELLS_MAX, SAMPLE_ROWS, TABLES_MAX, Row, row_text, write_table
from services.ingester.parsing.writer import TextWriter
from shared.errors import CorruptFile, ParserLimit
from tests.unit.parsing_checks import ROW, check

_WORDS = st.text(alphabet="abcdefgh", min_size=1, max_size=8)


def _csv(text: str, name: str = "table.csv", encoding: str = "utf-8") -> ParsedDocument:
    document = parse(name, text.encode(encoding))[1]
    check(document)
    return document


def _rows(document: ParsedDocument) -> list[tuple[int | None, str, str]]:
    assert all(block.kind is ROW and block.page is None for block in document.blocks)
    return [(block.line, document.text[block.start : block.end], block.context) for block in document.blocks]


def _texts(document: ParsedDocument) -> list[str]:
    return [text for _, text, _ in _rows(document)]


def _contexts(rows: list[list[str]]) -> list[str]:
    """Write a table whose empty rows are empty lines, and return the context of each row that is written."""
    writer = TextWriter()
    cells = (
        Row(line, [c for c, cell in enumerate(row) if cell], list(filter(None, row)))
        for line, row in enumerate(rows, 1)
    )
    write_table(writer, (row for row in cells if row.cells))
    return [block.context for block in writer.blocks]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_row_knows_the_names_of_its_columns_and_its_number(delimiter: str) -> None:
    document = _csv(
        f"name{delimiter}city{delimiter}age\nAnna{delimiter}Bern{delimiter}31\nBo{delimiter}Oslo{delimiter}4\n"
    )
    names = "name | city | age"
    assert _rows(document) == [(1, names, names), (2, "Anna | Bern | 31", names), (3, "Bo | Oslo | 4", names)]
    assert document.line_unit is LineUnit.ROW
    assert document.text == "name | city | age\nAnna | Bern | 31\nBo | Oslo | 4"


@settings(max_examples=200)
@given(st.lists(st.lists(_WORDS | st.just('a, b\nc; "d"'), min_size=2, max_size=4), min_size=1, max_size=8))
def test_what_a_program_writes_comes_back_in_order(rows: list[list[str]]) -> None:
    rows = [["first", "second", "third", "fourth"], *rows]
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    document = parse_delimited(file.getvalue().replace("\r\n", "\n"), 0)
    check(document)
    assert [(block.line, document.text[block.start : block.end]) for block in document.blocks] == [
        (line, " | ".join(" ".join(cell.split()) for cell in row)) for line, row in enumerate(rows, start=1)
    ]


@settings(max_examples=500)
@given(st.text(alphabet='ab,;|\t" \n', max_size=120))
def test_no_quote_and_no_comma_loses_a_word(text: str) -> None:
    document = parse_delimited(text, 0)
    check(document)
    assert "".join(re.findall("[ab]", document.text)) == "".join(re.findall("[ab]", text))


def test_cell_of_several_lines_is_in_one_row_and_an_empty_line_is_one() -> None:
    document = _csv('name,remark\nAnna,"two\nlines, and ""quotes"""\n\nBo,none\n')
    assert [(line, text) for line, text, _ in _rows(document)] == [
        (1, "name | remark"),
        (2, 'Anna | two lines, and "quotes"'),
        (4, "Bo | none"),
    ]


def test_line_of_excel_that_names_the_delimiter_is_no_row() -> None:
    document = _csv("sep=;\nname;amount\nAnna, Bo;1,5\n")
    assert _rows(document) == [(1, "name | amount", "name | amount"), (2, "Anna, Bo | 1,5", "name | amount")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheet_programs_are_read(encoding: str) -> None:
    assert _texts(_csv("Größe;Maß\nfünf;3\n", encoding=encoding)) == ["Größe | Maß", "fünf | 3"]


def test_decimal_commas_do_not_divide_cells() -> None:
    assert _texts(_csv("Preis;Menge\n1,5;2,5\n3,5;4,5\n")) == ["Preis | Menge", "1,5 | 2,5", "3,5 | 4,5"]
    assert _texts(_csv("1,5;2,5\n3,5;4,5\n")) == ["1,5 | 2,5", "3,5 | 4,5"]


def test_ragged_rows_keep_all_their_cells() -> None:
    assert _texts(_csv("a,b,c\nd,e\nf,g,h,i\nj,,k\n,l\n")) == ["a | b | c", "d | e", "f | g | h | i", "j | | k", "| l"]


def test_one_column_is_a_table_of_one_column() -> None:
    document = _csv("Lorem, ipsum\ndolor sit\namet\nadipiscing; elit\n")
    assert _rows(document) == [
        (1, "Lorem, ipsum", ""),
        (2, "dolor sit", ""),
        (3, "amet", ""),
        (4, "adipiscing; elit", ""),
    ]
    assert _rows(_csv("weight\n12\n15\n"))[1] == (2, "12", "weight")


def test_header_alone_is_a_row() -> None:
    assert _rows(_csv("name,city,age")) == [(1, "name | city | age", "")]


def test_nul_is_replaced_and_counted() -> None:
    document = parse_delimited("a,b\nc\x00,d\n", 2)
    assert _texts(document) == ["a | b", "c\ufffd | d"]
    assert document.replaced_character_count == 3


def test_quote_that_is_never_closed_swallows_its_own_line_at_most() -> None:
    lines = ["size,name", '"5 inch,pipe', *(f"{number},part {number}" for number in range(60_000))]
    rows = _rows(_csv("\n".join(lines)))
    assert len(rows) == len(lines)
    assert rows[1][1] == '"5 inch | pipe'
    assert rows[-1][:2] == (60_002, "59999 | part 59999")


def test_quotes_that_are_never_closed_are_looked_at_once_each() -> None:
    # From each line on, all the others are cells of one row, up to a quote at the end that is not closed.
    lines = 'b",x,"\n'
    document = parse_delimited("a,b\n" + '"\n' + lines * 100_000, 0)
    assert document.text.count("x") == document.text.count("b") - 1 == 100_000
    assert len(document.blocks) == 100_002


def test_endless_line_is_not_divided_and_what_follows_is() -> None:
    endless = "x," * (ROW_CHARACTERS_MAX // 2) + "x"
    document = parse_delimited(f"a,b\n1,2\n{endless}\n3,4\n", 0)
    check(document)
    assert _texts(document) == ["a | b", "1 | 2", endless, "3 | 4"]


def test_words_behind_a_closing_quote_stay() -> None:
    assert _texts(_csv('name,age\n"Smith" Jr,5\nBo,6\n'))[1:] == ['"Smith" Jr | 5', "Bo | 6"]


def test_text_that_is_named_a_table_is_read_as_text() -> None:
    text = (
        "It was a bright cold day in April, and the clocks were striking thirteen.\n"
        "Winston Smith slipped quickly through the glass doors, though not quickly enough, of the old house.\n"
        "The hallway smelt of boiled cabbage and old rag mats, as it always did in those years.\n"
        "At one end of it a coloured poster had been tacked to the wall. Nobody looked at it.\n"
    )
    document = _csv(text)
    assert document.text == text
    assert document.line_unit is LineUnit.LINE
    assert find_delimiter(text) is None


def test_table_of_long_texts_is_a_table() -> None:
    row = '{},"A review, and a long one, with commas, of what nobody has ever bought twice."\n'
    document = _csv("id,review\n" + "".join(row.format(number) for number in range(1, 9)))
    assert _rows(document)[3][2] == "id | review"
    assert len(document.blocks) == 9


def test_name_of_a_kind_of_table_gives_its_media_type() -> None:
    assert parse("a.tsv", b"a\tb\n1\t2\n")[0] == TSV
    assert parse("a.csv", b"a,b\n1,2\n")[0] == CSV


def test_table_of_text_that_is_called_xls_is_read_as_excel_does() -> None:
    media_type, document = parse("report.xls", b"name\tage\nAnna\t31\n")
    assert media_type == CSV
    assert _texts(document) == ["name | age", "Anna | 31"]
    with pytest.raises(CorruptFile, match="the file is text"):
        parse("report.xls", b"Sorry, you are not logged in")


def test_rows_of_numbers_have_no_names() -> None:
    assert {context for _, _, context in _rows(_csv("1,2,3\n4,5,6\n7,8,9\n"))} == {""}
    assert {context for _, _, context in _rows(_csv("Anna,31\nBo,4\nCy,5\n"))} == {""}


def test_row_that_comes_again_below_names_nothing() -> None:
    assert _contexts([["yes", "no"], ["no", "yes"], ["yes", "yes"]]) == ["", "", ""]
    assert _contexts([["x", "x", "x"], ["x", "x", "x"]]) == ["", ""]


def test_years_name_columns_above_amounts_and_not_above_years() -> None:
    names = "Country | 2019 | 2020"
    assert _contexts([["Country", "2019", "2020"], ["Chad", "17.5", "18,1"], ["Peru", "9", "8"]]) == [names] * 3
    assert _contexts([["", "2019", "2020"], ["Chad", "17.5", "18.1"]]) == ["2019 | 2020"] * 2
    assert _contexts([["Reign", "1819", "1901"], ["Other", "1910", "1936"], ["Third", "1936", "1952"]]) == [""] * 3


def test_names_are_found_below_a_caption_and_remarks_have_none() -> None:
    rows = [
        ["Sales"],
        [],
        ["in millions", "", "first half"],
        ["", "Price", "Pieces"],
        [],
        ["Tea", "1", "2"],
        ["Soup", "3", "4"],
    ]
    names = "in millions | Price | first half Pieces"
    assert _contexts([*rows, [], ["As of May"], ["Unaudited"]]) == [names] * 5 + ["", ""]
    assert _csv("Sales of the year,,\nname,price,pieces\nTea,1,2\nSoup,3,4\n").title == "Sales of the year"


def test_table_below_an_empty_row_has_its_own_names() -> None:
    rows = [["name", "age"], ["Anna", "31"], [], ["Bo", "5"], [], ["town", "area"], ["Bern", "51.6"]]
    assert _contexts(rows) == ["name | age"] * 3 + ["town | area"] * 2


def test_names_on_two_rows_are_joined() -> None:
    rows = [
        ["Kind", "Number", "Results", ""],
        ["", "", "Accuracy", "Time"],
        ["Blind", "5", "34.5%", "1199"],
        ["Deaf", "4", "98%", "1672"],
    ]
    assert _contexts(rows) == ["Kind | Number | Results Accuracy | Results Time"] * 4


def test_more_rows_than_any_document_has_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BLOCKS_MAX", 3)
    with pytest.raises(ParserLimit, match="more than 3 rows and paragraphs"):
        _csv("a,b\n1,2\n3,4\n5,6\n")


def test_names_are_bounded_however_many_columns_there_are() -> None:
    context = _contexts([[f"column {number}" for number in range(5000)], ["1"] * 5000])[1]
    assert context.startswith("column 0 | column 1 | ")
    assert len(context) <= 1000


def test_looking_for_names_ends_in_a_file_of_nothing_but_tables() -> None:
    rows: list[list[str]] = []
    for number in range(TABLES_MAX + 50):
        rows += [[f"name {number}", f"size {number}"], ["x", "1"], []]
    contexts = _contexts(rows)
    assert contexts[2 * (TABLES_MAX - SAMPLE_ROWS)].startswith("name ")
    assert contexts[-1] != f"name {TABLES_MAX + 49} | size {TABLES_MAX + 49}"


def test_far_cells_stand_behind_a_bounded_gap() -> None:
    assert row_text([0, 16_383], ["a", "b"]) == "a" + " |" * (EMPTY_CELLS_MAX + 1) + " b"
    assert row_text([2, 3], ["a", "b"], left=2) == "a | b"
    assert row_text([3], ["a\nb\u00ad c"], left=2) == "| a b c"
