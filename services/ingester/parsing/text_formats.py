"""Formats that are text: data, markup and source code; most of them are known by their names alone."""

from collections.abc import Callable

from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.formats import Container, Format
from services.ingester.parsing.json_text import parse_json, parse_json_lines
from services.ingester.parsing.notebook import parse_notebook
from services.ingester.parsing.outlined import parse_asciidoc, parse_latex, parse_org, parse_rst
from services.ingester.parsing.rtf import parse_rtf
from services.ingester.parsing.source_code import SECTIONS, YAML, parse_source
from services.ingester.parsing.xml_text import looks_like_xml, parse_xml

RTF = "application/rtf"
JSON = "application/json"
JSON_LINES = "application/jsonl"
NOTEBOOK = "application/x-ipynb+json"
XML = "application/xml"
ORG = "text/org"
RST = "text/x-rst"
ASCIIDOC = "text/asciidoc"
LATEX = "text/x-tex"
YAML_TEXT = "application/yaml"
SETTINGS = "text/x-ini"
SOURCE = "text/x-source"

_XML_NAMES = (
    ".xml .xsl .xslt .xsd .svg .rss .atom .rdf .kml .gpx .plist .opml .dita .dbk .docbook .fb2 .tei .wsdl .resx "
    ".xlf .tmx .fodt .fods .fodp .csproj .xaml"
)
_SOURCE_NAMES = (
    ".py .pyi .pyx .js .mjs .cjs .jsx .ts .mts .cts .tsx .vue .svelte .go .rs .java .kt .kts .scala .groovy "
    ".gradle .c .h .cc .cpp .cxx .hh .hpp .hxx .ino .m .mm .cs .fs .vb .swift .dart .rb .rake .php .pl .pm .lua "
    ".r .jl .ex .exs .erl .hs .ml .mli .clj .cljs .lisp .el .scm .sh .bash .zsh .fish .ps1 .psm1 .bat .cmd .awk "
    ".tcl .sql .ddl .css .scss .sass .less .proto .graphql .gql .thrift .tf .hcl .nix .cmake .mk .zig .nim .cr "
    ".sol .f .f90 .f95 .pas .adb .ads .asm .s .v .sv .vhd .vhdl .coffee .vim .jsonc .json5 makefile gnumakefile "
    "dockerfile containerfile jenkinsfile vagrantfile gemfile rakefile cmakelists.txt"
)


def _decoded(parse: Callable[[str, int], ParsedDocument]) -> Callable[[bytes], ParsedDocument]:
    return lambda content: parse(*decode(content))


TEXT_FORMATS = (
    # Pictures in it may hold bytes of any kind.
    Format(RTF, (".rtf",), parse_rtf, lambda sample: sample.head.startswith(b"{\\rtf"), Container.BYTES),
    Format(XML, tuple(_XML_NAMES.split()), parse_xml, lambda sample: looks_like_xml(sample.text)),
    Format(JSON, (".json", ".geojson", ".har", ".webmanifest"), _decoded(parse_json)),
    Format(JSON_LINES, (".jsonl", ".ndjson", ".jsonlines"), _decoded(parse_json_lines)),
    Format(NOTEBOOK, (".ipynb",), _decoded(parse_notebook)),
    Format(ORG, (".org",), _decoded(parse_org)),
    Format(RST, (".rst", ".rest"), _decoded(parse_rst)),
    Format(ASCIIDOC, (".adoc", ".asciidoc"), _decoded(parse_asciidoc)),
    Format(LATEX, (".tex", ".latex", ".ltx"), _decoded(parse_latex)),
    Format(YAML_TEXT, (".yaml", ".yml"), _decoded(lambda text, replaced: parse_source(text, replaced, YAML))),
    Format(
        SETTINGS,
        (".ini", ".cfg", ".conf", ".toml", ".properties", ".editorconfig", ".desktop", ".service"),
        _decoded(lambda text, replaced: parse_source(text, replaced, SECTIONS)),
    ),
    Format(SOURCE, tuple(_SOURCE_NAMES.split()), _decoded(parse_source)),
)
