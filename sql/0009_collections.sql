-- depends: 0005_access
-- Collections are made, renamed and deleted by callers of the HTTP interface, inside their scope; key names are readable.
SET ROLE askbox_owner;

GRANT INSERT, UPDATE (name), DELETE ON collection TO askbox_reader;
CREATE POLICY creates_collections ON collection FOR INSERT TO askbox_reader WITH CHECK (true);
CREATE POLICY renames_its_scope ON collection FOR UPDATE TO askbox_reader
  USING (id = ANY ((SELECT scope())::integer[])) WITH CHECK (id = ANY ((SELECT scope())::integer[]));
CREATE POLICY deletes_its_scope ON collection FOR DELETE TO askbox_reader
  USING (id = ANY ((SELECT scope())::integer[]));

-- Deleting a collection takes its dead letters along; nothing else hangs on them.
GRANT DELETE ON dead_letter TO askbox_reader;

ALTER TABLE api_key ADD CONSTRAINT key_name_is_readable
  CHECK (length(btrim(name)) BETWEEN 1 AND 100 AND name !~ '[[:cntrl:]]');

RESET ROLE;
