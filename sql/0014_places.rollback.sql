SET ROLE askbox_owner;
ALTER TABLE chunk_position DROP COLUMN lines, DROP COLUMN page_turns, DROP COLUMN page_label;
ALTER TABLE staged_chunk DROP COLUMN lines, DROP COLUMN page_turns, DROP COLUMN page_label;
ALTER TABLE document_version DROP COLUMN line_unit, DROP COLUMN page_unit;
RESET ROLE;
