-- depends: 0013_requested
-- Where a chunk stands in its file, as the file's own program shows it: pages that have names, slides, sheets, cells, lines, rows.
SET ROLE askbox_owner;

-- What `page` and `lines` count in this document. Versions from before this migration had pages, or nothing.
ALTER TABLE document_version
  ADD COLUMN page_unit text NOT NULL DEFAULT 'page'
    CONSTRAINT page_unit_is_known CHECK (page_unit IN ('page', 'slide', 'sheet', 'cell')),
  ADD COLUMN line_unit text NOT NULL DEFAULT 'line'
    CONSTRAINT line_unit_is_known CHECK (line_unit IN ('line', 'row'));

-- page: where the text begins. page_label: its name where that is not its number. page_turns: [[character, page, label], …],
-- where in the text further pages begin, NULL where none does. lines: the number of each line of the text, cut short where the
-- rest counts on one by one, empty where it is not known; so a text in one piece has a single number, of a file of any length.
ALTER TABLE staged_chunk
  ADD COLUMN page_label text,
  ADD COLUMN page_turns jsonb,
  ADD COLUMN lines integer[] NOT NULL DEFAULT '{}';

-- What is staged is looked at here, once; a published position is a copy of it.
ALTER TABLE staged_chunk
  ADD CONSTRAINT label_is_that_of_a_page CHECK (page_label IS NULL OR (page IS NOT NULL AND btrim(page_label) <> '')),
  ADD CONSTRAINT page_turns_are_a_list CHECK (jsonb_typeof(page_turns) = 'array' AND page_turns <> '[]'),
  ADD CONSTRAINT lines_are_numbers CHECK (array_position(lines, NULL) IS NULL AND 0 < ALL (lines));

ALTER TABLE chunk_position
  ADD COLUMN page_label text,
  ADD COLUMN page_turns jsonb,
  ADD COLUMN lines integer[] NOT NULL DEFAULT '{}';

RESET ROLE;
