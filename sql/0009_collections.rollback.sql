SET ROLE askbox_owner;
ALTER TABLE api_key DROP CONSTRAINT key_name_is_readable;
REVOKE DELETE ON dead_letter FROM askbox_reader;
DROP POLICY deletes_its_scope ON collection;
DROP POLICY renames_its_scope ON collection;
DROP POLICY creates_collections ON collection;
REVOKE INSERT, UPDATE (name), DELETE ON collection FROM askbox_reader;
RESET ROLE;
