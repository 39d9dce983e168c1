-- depends: 0013_requested
-- Files that lie within files: what is attached to a mail is a document of its own, with its own bytes, versions and reason.
SET ROLE askbox_owner;

-- What a mail holds lives and dies with it, whoever ends it and however: the inbox, a caller, a new version, its collection.
-- The name says the same as the foreign key. No path and no name of an upload has an empty part, so `//` stands in names of
-- attachments alone: a folder that takes the name of a mail, while that is being deleted, gets none of its documents.
ALTER TABLE document
  ADD COLUMN parent_id bigint,
  ADD CONSTRAINT attachment_belongs_to_its_mail FOREIGN KEY (collection_id, parent_id) REFERENCES document ON DELETE CASCADE,
  ADD CONSTRAINT attachment_is_named_as_one CHECK ((parent_id IS NULL) = (strpos(source_uri, '//') = 0));
-- Asked by every deletion of a document.
CREATE INDEX document_parent ON document (collection_id, parent_id) WHERE parent_id IS NOT NULL;

-- Asked when a file of the inbox is gone or renamed, of which something was deleted on purpose.
CREATE INDEX tombstone_of_attachment ON tombstone (collection_id, split_part(source_uri, '//', 1)) WHERE strpos(source_uri, '//') > 0;

-- Whoever asked for a mail asked for what is attached to it, which is found by the mail's version.
CREATE INDEX requested_version_id ON ingest_request_document (version_id);

-- A mail was renamed: so is what it holds, in the same transaction, or another mail of the old name would take it for its own.
-- Each gets a version of the same bytes, as the mail does, because the words of the path are indexed; nothing is embedded.
-- Level by level: the statement that renames a mail within the mail waits for whoever is adding to it, and the next
-- statement's snapshot sees what was added.
CREATE FUNCTION move_attachments(in_collection_id integer, of_document_id bigint, trace_parent text, job_trace_parent text, trace_state text)
RETURNS TABLE (document_id bigint, version_id bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
DECLARE
  holders bigint[] := ARRAY[of_document_id];
  moved bigint[];
BEGIN
  IF in_collection_id IS NULL OR NOT in_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;
  LOOP
    WITH renamed AS (
      UPDATE document AS d
      SET source_uri = h.source_uri || '//' || split_part(d.source_uri, '//', -1)
      FROM document AS h
      WHERE h.collection_id = in_collection_id AND h.id = d.parent_id
        AND d.collection_id = in_collection_id AND d.parent_id = ANY (holders)
      RETURNING d.id
    )
    SELECT array_agg(r.id ORDER BY r.id) INTO moved FROM renamed AS r;
    EXIT WHEN moved IS NULL;
    RETURN QUERY
      SELECT m.id, queue_version(in_collection_id, m.id, newest.blob_id, 0, 0, interval '0', false, trace_parent, job_trace_parent, trace_state)
      FROM unnest(moved) AS m (id)
      CROSS JOIN LATERAL (
        SELECT v.blob_id FROM document_version AS v
        WHERE v.collection_id = in_collection_id AND v.document_id = m.id
        ORDER BY v.id DESC
        LIMIT 1
      ) AS newest;
    holders := moved;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION move_attachments(integer, bigint, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_attachments(integer, bigint, text, text, text) TO askbox_worker;

RESET ROLE;
