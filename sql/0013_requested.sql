-- depends: 0012_workers
-- How far the documents of a request are, for those who count them and those who list them.
SET ROLE askbox_owner;

-- A version that was overtaken stands for what overtook it. Read with the rights, and the walls, of whoever asks.
CREATE VIEW requested_version WITH (security_invoker = true) AS
SELECT l.collection_id, l.request_id, l.document_id, l.version_id, l.file_path, e.id AS counted_version_id,
  coalesce(e.state, 'deleted') AS state, e.error, e.chunk_count
FROM ingest_request_document AS l
LEFT JOIN document AS d ON d.collection_id = l.collection_id AND d.id = l.document_id
LEFT JOIN document_version AS v ON v.collection_id = l.collection_id AND v.id = l.version_id
LEFT JOIN LATERAL (
  SELECT id FROM document_version
  WHERE collection_id = l.collection_id AND document_id = l.document_id
  ORDER BY id DESC
  LIMIT 1
) AS newest ON true
LEFT JOIN document_version AS e ON e.collection_id = l.collection_id AND e.id = CASE
  WHEN v.state IN ('queued', 'parsing', 'embedding', 'ready') THEN v.id
  WHEN d.live_version_id > l.version_id THEN d.live_version_id
  ELSE newest.id
END;
GRANT SELECT ON requested_version TO askbox_reader;

RESET ROLE;
