-- depends: 0011_token_sums
-- What a worker says of itself: whether it can work, and in the story of a document by its name, which outlives its row.
SET ROLE askbox_owner;

-- True: what the note says keeps the process from its work.
ALTER TABLE worker ADD COLUMN is_hindered boolean NOT NULL DEFAULT false
  CONSTRAINT hindered_worker_says_why CHECK (NOT is_hindered OR btrim(coalesce(note, '')) <> '');

-- The process that wrote the line. A worker's row goes when it ends.
ALTER TABLE document_event ADD COLUMN worker text;
ALTER TABLE document_event DROP COLUMN worker_id;

RESET ROLE;
