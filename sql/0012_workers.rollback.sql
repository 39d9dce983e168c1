SET ROLE askbox_owner;
ALTER TABLE document_event ADD COLUMN worker_id bigint;
ALTER TABLE document_event DROP COLUMN worker;
ALTER TABLE worker DROP COLUMN is_hindered;
RESET ROLE;
