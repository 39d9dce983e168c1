-- depends: 0016_progress
-- How many files of the inbox an ingester has seen and not yet taken.
SET ROLE askbox_owner;

ALTER TABLE worker ADD COLUMN waiting_file_count integer NOT NULL DEFAULT 0
  CONSTRAINT waiting_files_are_a_count CHECK (waiting_file_count >= 0);

RESET ROLE;
