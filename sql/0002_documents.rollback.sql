SET ROLE askbox_owner;
DROP TABLE document_event, ingest_request_document, ingest_request, inbox_pause, inbox_mark, skipped_file, tombstone CASCADE;
DROP TABLE document_version, document, blob_part, blob, collection, embedding_model CASCADE;
RESET ROLE;
