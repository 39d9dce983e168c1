"""Which parser reads a file, what a plug-in may do, and what a page does to OCR."""

from tests.crash.safeguards.mutant import Mutant, mutant

REGISTRY, PLUGINS, SERVER = (
    "services/ingester/parsing/registry.py",
    "services/ingester/plugins.py",
    "services/ingester/parse_server.py",
)
OCR, PDF = "services/ingester/parsing/ocr.py", "services/ingester/parsing/pdf.py"
READING, SEEN = "tests/crash/test_ocr.py", "tests/unit/test_ocr.py"
FORMATS, ARCHIVE = "services/ingester/parsing/formats.py", "services/ingester/parsing/archive.py"
TOLD, INSTALLED = "tests/unit/test_registry.py", "tests/crash/test_plugins.py"
GUARDED = "tests/unit/test_plugins.py"
WORDS = f"{GUARDED}::test_every_word_of_a_plug_in_can_be_stored"
LOADED = f"{INSTALLED}::test_installed_distribution_adds_formats_and_a_broken_one_stops_nobody"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "formats: a text under the name of something else is told as such",
        REGISTRY,
        "        if is_misnamed:\n",
        "        if is_misnamed and not name:\n",
        f"{TOLD}::test_plug_in_with_the_media_type_of_a_built_in_format_reads_all_its_files",
    ),
    mutant(
        "formats: a page under the name of what it is not is no document",
        REGISTRY,
        "        if certain is not None and not is_misnamed:\n",
        "        if certain is not None:\n",
        f"{TOLD}::test_page_under_the_name_of_what_it_is_not_is_told_as_such",
    ),
    mutant(
        "formats: what is embedded says nothing of its container",
        FORMATS,
        "        if self.streams is None:",
        "        if self.streams is None or start:",
        f"{TOLD}::test_what_is_embedded_says_nothing_of_a_container",
    ),
    mutant(
        "formats: a container whose directory lies is corrupt",
        ARCHIVE,
        "        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:",
        "        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:",
        "tests/unit/test_parsing_docx.py::test_container_that_lost_its_beginning_is_corrupt",
    ),
    mutant(
        "plug-ins: one that fails stops no other",
        PLUGINS,
        "        except (Exception, SystemExit) as error:\n",
        "        except SystemExit as error:\n",
        LOADED,
    ),
    mutant(
        "plug-ins: one that leaves stops no other",
        PLUGINS,
        "        except (Exception, SystemExit) as error:\n",
        "        except Exception as error:\n",
        LOADED,
    ),
    mutant(
        "plug-ins: what they give is checked",
        PLUGINS,
        "            return _checked(parse(content))\n",
        "            return parse(content)\n",
        LOADED,
    ),
    mutant(
        "plug-ins: a test that fails is asked in vain, and no file is lost",
        PLUGINS,
        "        except Exception:\n            return False\n",
        "        except ZeroDivisionError:\n            return False\n",
        LOADED,
    ),
    mutant(
        "plug-ins: their headings and the names of their columns can be stored",
        PLUGINS,
        "        blocks=[_shortened(block) if block.heading or block.context else block for block in document.blocks],\n",
        "        blocks=document.blocks,\n",
        WORDS,
    ),
    mutant(
        "plug-ins: the names of their pages can be stored",
        PLUGINS,
        "page_labels={page: _line(label, TITLE_CHARACTERS_MAX) for",
        "page_labels={page: label for",
        WORDS,
    ),
    mutant(
        "plug-ins: their blocks stand in order and within their text",
        PLUGINS,
        " or not at <= block.start < block.end <= len(text):\n",
        ":\n",
        f"{GUARDED}::test_blocks_that_cannot_be_are_the_plug_ins_fault",
    ),
    mutant(
        "plug-ins: they read their own files",
        SERVER,
        "[*_own_files(), *plugins.files, *(",
        "[*_own_files(), *(",
        LOADED,
    ),
    mutant(
        "plug-ins: they read nothing beside their own files",
        PLUGINS,
        "    yield from map(Path, folders)\n",
        "    yield from (Path(folder).parent for folder in folders)\n",
        LOADED,
    ),
    mutant(
        "OCR: what becomes of its processes is asked",
        SERVER,
        "            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it asks what became of its own\n",
        "",
        f"{READING}::test_page_that_breaks_it_costs_that_page",
    ),
    mutant(
        "OCR: its program dies with its parser",
        SERVER,
        "    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n    _lower",
        "    _lower",
        f"{READING}::test_nothing_of_it_is_left_when_its_parser_is_killed",
    ),
    mutant(
        "OCR: its program cannot look into its parser",
        SERVER,
        "int(PAGE_SECONDS_MAX))\n    landlock.enter(ruleset)\n",
        "int(PAGE_SECONDS_MAX))\n",
        f"{READING}::test_program_that_was_taken_over_reaches_nothing",
    ),
    mutant(
        "OCR: its program is shut in",
        OCR,
        "            preexec_fn=self._enclose,  # noqa: PLW1509 (a parser child has one thread)\n",
        "",
        f"{READING}::test_program_that_was_taken_over_reaches_nothing",
    ),
    mutant(
        "OCR: its program is told nothing but what it needs",
        OCR,
        "            env=self._environment,\n",
        "",
        f"{READING}::test_program_that_was_taken_over_reaches_nothing",
    ),
    mutant(
        "OCR: a page that fails gives no text",
        OCR,
        "        if status != 0:\n",
        "        if status is None:\n",
        f"{READING}::test_page_that_breaks_it_costs_that_page",
    ),
    mutant(
        "OCR: what it writes is bounded",
        OCR,
        "        if left < 0:\n",
        "        if left is None:\n",
        f"{READING}::test_page_that_breaks_it_costs_that_page",
    ),
    mutant(
        "OCR: a page has its share of the time",
        OCR,
        "min(started + self._page_seconds, self._until)",
        "self._until",
        f"{READING}::test_page_that_hangs_costs_that_page",
    ),
    mutant(
        "OCR: a page that is not drawn in its time is given up",
        OCR,
        "            os.kill(painter, signal.SIGKILL)\n",
        "",
        f"{READING}::test_page_that_cannot_be_drawn_in_its_time_costs_that_page",
    ),
    mutant(
        "OCR: it leaves time for what follows",
        SERVER,
        "ocr.begin(OCR_SHARE * ",
        "ocr.begin(1000 * ",
        f"{READING}::test_text_stands_though_its_pictures_are_not_read_in_time",
    ),
    mutant(
        "OCR: a part of a scan does not pass for the whole",
        OCR,
        "        if self.late_count:\n",
        "        if self.late_count < 0:\n",
        f"{READING}::test_scan_that_is_not_read_in_its_time_says_how_far_it_came",
    ),
    mutant(
        "OCR: what it read does not make a scan a text",
        PDF,
        "    if sum(lengths) - seen >= CHARACTERS_PER_PAGE_MIN * len(lengths):\n",
        "    if sum(lengths) >= CHARACTERS_PER_PAGE_MIN * len(lengths):\n",
        f"{READING}::test_scan_that_is_not_read_in_its_time_says_how_far_it_came",
    ),
    mutant(
        "OCR: a scan of which most pages failed is refused",
        OCR,
        "        if 2 * self.failed_count > tried_count:\n",
        "        if self.failed_count == tried_count:\n",
        f"{READING}::test_scan_that_is_hardly_read_is_refused",
    ),
    mutant(
        "OCR: a page is drawn with so many dots at most",
        OCR,
        "        math.sqrt(PIXELS_MAX / width / height),\n",
        "",
        f"{SEEN}::test_page_is_drawn_with_300_dots_an_inch_or_with_as_many_as_there_may_be",
        f"{READING}::test_page_of_any_size_is_a_picture_of_bounded_size",
    ),
    mutant(
        "OCR: specks are no words",
        OCR,
        "        if text and float(fields[9]) >= CONFIDENCE_MIN:\n",
        "        if text:\n",
        f"{SEEN}::test_what_is_no_word_is_left_out",
    ),
    mutant(
        "OCR: only languages that are there are asked for",
        OCR,
        "        if missing or not languages:\n",
        "        if not languages:\n",
        f"{SEEN}::test_language_that_is_missing_is_named",
    ),
)
