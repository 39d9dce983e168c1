"""Which parser reads a file, and what a plug-in may do."""

from tests.crash.safeguards.mutant import Mutant, mutant

REGISTRY, PLUGINS, SERVER = (
    "services/ingester/parsing/registry.py",
    "services/ingester/plugins.py",
    "services/ingester/parse_server.py",
)
FORMATS, ARCHIVE = "services/ingester/parsing/formats.py", "services/ingester/parsing/archive.py"
TOLD, INSTALLED = "tests/unit/test_registry.py", "tests/crash/test_plugins.py"
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
        "plug-ins: they read their own files",
        SERVER,
        "[*_own_files(), *plugins.files]",
        "list(_own_files())",
        LOADED,
    ),
    mutant(
        "plug-ins: they read nothing beside their own files",
        PLUGINS,
        "    yield from map(Path, folders)\n",
        "    yield from (Path(folder).parent for folder in folders)\n",
        LOADED,
    ),
)
