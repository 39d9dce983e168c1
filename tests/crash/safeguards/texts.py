"""What an author of text, data or markup cannot do."""

from tests.crash.safeguards.mutant import Mutant, mutant

FOLDER = "services/ingester/parsing"
JSON, XML, FIELDS, NOTEBOOK = (
    f"{FOLDER}/json_text.py",
    f"{FOLDER}/xml_text.py",
    f"{FOLDER}/fields.py",
    f"{FOLDER}/notebook.py",
)
RTF, WRITER, DECODING, MATTER = (
    f"{FOLDER}/rtf.py",
    f"{FOLDER}/writer.py",
    f"{FOLDER}/decoding.py",
    f"{FOLDER}/front_matter.py",
)
DATA, SOURCE = "tests/unit/test_parsing_data.py", "tests/unit/test_parsing_source.py"
RICH, DECODED = "tests/unit/test_parsing_rtf.py", "tests/unit/test_decoding.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "JSON: nesting has a bound",
        JSON,
        "        if len(self.containers) >= NESTING_MAX:\n",
        "        if len(self.containers) >= 1000 * NESTING_MAX:\n",
        f"{DATA}::test_nesting_has_a_bound_behind_which_the_file_is_text",
    ),
    mutant(
        "JSON: a broken line costs only itself",
        JSON,
        "            fields.flush()\n            fields.writer.add(BlockKind.LINES, line, line=number, is_joined=True)\n",
        "            fields.flush()\n",
        f"{DATA}::test_json_lines_are_rows_and_a_broken_line_stays_as_it_is",
    ),
    mutant(
        "JSON: pictures are no words",
        FIELDS,
        "        if value.startswith(_DATA_ADDRESS) and len(value) >= _DATA_CHARACTERS_MIN:\n",
        "        if value.startswith(_DATA_ADDRESS) and not value:\n",
        f"{DATA}::test_embedded_picture_is_left_out",
    ),
    mutant(
        "XML: nesting has a bound",
        XML,
        "        if len(self._elements) >= NESTING_MAX:\n",
        "        if len(self._elements) >= 1000 * NESTING_MAX:\n",
        f"{DATA}::test_nesting_has_a_bound_behind_which_the_file_is_text",
    ),
    mutant(
        "XML: entities are not expanded by the library",
        XML,
        "        self._parser.DefaultHandler = self._take_other",
        "        self._parser.DefaultHandlerExpand = self._take_other",
        f"{DATA}::test_no_file_is_read_and_no_entity_expanded_that_an_author_could_make_grow",
    ),
    mutant(
        "XML: short entities expand only so far",
        XML,
        "        self._add_text(text if self._expanded_characters <= _EXPANDED_CHARACTERS_MAX else data)\n",
        "        self._add_text(text)\n",
        f"{DATA}::test_entities_expand_only_so_far",
    ),
    mutant(
        "notebooks: what a program prints without end is cut",
        NOTEBOOK,
        "    return text[:OUTPUT_CHARACTERS_MAX], len(text) > OUTPUT_CHARACTERS_MAX\n",
        "    return text, len(text) > OUTPUT_CHARACTERS_MAX\n",
        f"{DATA}::test_endless_output_is_cut_and_the_document_says_so",
    ),
    mutant(
        "RTF: groups nest so far",
        RTF,
        "            if len(self._groups) >= GROUPS_MAX:\n",
        "            if len(self._groups) >= 1000 * GROUPS_MAX:\n",
        f"{RICH}::test_groups_that_nest_without_end_are_refused",
    ),
    mutant(
        "RTF: bytes of a picture are no text",
        RTF,
        "                        at += max(0, int(number or 0))\n",
        "                        at += 0\n",
        f"{RICH}::test_characters_are_what_the_word_processor_shows",
    ),
    mutant(
        "text: it has an end",
        WRITER,
        "    if len(text) > CHARACTERS_MAX:\n",
        "    if len(text) > 1000 * CHARACTERS_MAX:\n",
        f"{SOURCE}::test_text_without_end_is_refused",
    ),
    mutant(
        "text: it has so many lines",
        WRITER,
        '    if text.count("\\n") > LINES_MAX:\n',
        '    if text.count("\\n") > 1000 * LINES_MAX:\n',
        f"{SOURCE}::test_text_without_end_is_refused",
    ),
    mutant(
        "text: binary bytes are not taken for wide letters",
        DECODING,
        "        if is_text and has_ascii:\n",
        "        if is_text:\n",
        f"{DECODED}::test_binary_bytes_are_no_wide_text",
    ),
    mutant(
        "Markdown: front matter has no objects",
        MATTER,
        "    if value.startswith(_NO_SCALAR):\n",
        '    if value.startswith("["):\n',
        f"{SOURCE}::test_scalars_of_front_matter_are_metadata",
    ),
)
