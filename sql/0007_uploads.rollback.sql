SET ROLE askbox_owner;
REVOKE INSERT (stage, subject_id, collection_id, traceparent, tracestate) ON job FROM askbox_reader;
REVOKE INSERT (id, collection_id, directory, is_recursive, skipped_count), UPDATE (skipped_count) ON ingest_request FROM askbox_reader;
REVOKE INSERT (collection_id, source_uri), UPDATE (created_at) ON document FROM askbox_reader;
REVOKE SELECT ON token_usage FROM askbox_reader;
REVOKE INSERT ON blob_part, document_event, ingest_request_document FROM askbox_reader;
REVOKE INSERT, DELETE ON blob FROM askbox_reader;
DROP POLICY asks_for_scans_only ON job;
DROP POLICY adds_to_unfinished_blobs ON blob_part;
DROP POLICY drops_unfinished_blobs ON blob;
DROP POLICY begins_blobs ON blob;
DROP POLICY sees_unfinished_blobs ON blob;
DROP FUNCTION count_embedded(integer, bigint);
DROP FUNCTION retry_document(integer, bigint, text, text, text);
DROP FUNCTION add_version(integer, bigint, bigint, bytea, bigint, integer, integer, interval, boolean, text, text, text);
DROP FUNCTION queue_version(integer, bigint, bigint, integer, integer, interval, boolean, text, text, text);
DROP FUNCTION settle_blob(bigint, bytea, bigint);
DROP TABLE ingest_request_skipped;
DROP INDEX request_by_age;
ALTER TABLE ingest_request
  DROP CONSTRAINT failed_request_has_a_reason,
  DROP COLUMN number,
  DROP COLUMN is_recursive,
  DROP COLUMN skipped_count;
ALTER TABLE document_version DROP COLUMN is_retry;
RESET ROLE;
