SET ROLE askbox_owner;
ALTER TABLE worker DROP COLUMN waiting_file_count;
RESET ROLE;
