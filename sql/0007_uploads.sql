-- depends: 0006_lexical
-- Uploads, scans and retries: the query process stores bytes and makes versions, inside its scope.
SET ROLE askbox_owner;

-- A retry forgets the dead letters of the texts it stages, once; an ordinary version does not, or one poisoned text that
-- many files share would be tried again for each of them.
ALTER TABLE document_version ADD COLUMN is_retry boolean NOT NULL DEFAULT false;

-- A job names its subject by number: that of a `scan` job is the request's.
ALTER TABLE ingest_request
  ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT request_has_one_number UNIQUE,
  ADD COLUMN is_recursive boolean NOT NULL DEFAULT true,
  ADD COLUMN skipped_count integer NOT NULL DEFAULT 0 CONSTRAINT skipped_count_is_a_count CHECK (skipped_count >= 0),
  ADD CONSTRAINT failed_request_has_a_reason CHECK (btrim(error) <> '');
CREATE INDEX request_by_age ON ingest_request (created_at);

-- Files of a request that were not taken, with the reason.
CREATE TABLE ingest_request_skipped (
  request_id uuid NOT NULL REFERENCES ingest_request ON DELETE CASCADE,
  collection_id integer NOT NULL,
  file_path text NOT NULL,
  reason text NOT NULL CONSTRAINT skipped_path_has_a_reason CHECK (btrim(reason) <> ''),
  PRIMARY KEY (request_id, file_path)
);
ALTER TABLE ingest_request_skipped ENABLE ROW LEVEL SECURITY;
ALTER TABLE ingest_request_skipped FORCE ROW LEVEL SECURITY;
CREATE POLICY works_on_every_collection ON ingest_request_skipped TO askbox_owner, askbox_worker USING (true);
CREATE POLICY sees_its_scope ON ingest_request_skipped TO askbox_reader USING (collection_id = ANY ((SELECT scope())::integer[]));

-- Stored bytes → the blob that holds this content: their own, or the one that was there before them.
-- Whoever names a sum must have sent the bytes: they are compared part by part, so memory stays bounded. Not executable by
-- the query process: what it returns tells whether somebody else has the same file.
CREATE FUNCTION settle_blob(stored_blob_id bigint, stored_sha256 bytea, stored_file_bytes bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = askbox, pg_temp AS $$
DECLARE
  known_blob_id bigint;
  part_count bigint;
  last_ordinal integer;
  part_bytes bigint;
BEGIN
  PERFORM 1 FROM blob AS b WHERE b.id = stored_blob_id AND b.sha256 IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    -- Swept meanwhile, or never unfinished: the caller has to send the bytes again, as after a deleted foreign key.
    RAISE foreign_key_violation USING MESSAGE = 'there is no unfinished blob of this id';
  END IF;
  SELECT count(*), max(p.ordinal), coalesce(sum(octet_length(p.bytes)), 0) INTO part_count, last_ordinal, part_bytes
  FROM blob_part AS p WHERE p.blob_id = stored_blob_id;
  IF part_bytes <> stored_file_bytes OR coalesce(last_ordinal, -1) <> part_count - 1 THEN
    RAISE data_exception USING MESSAGE = 'the stored parts are not the whole file';
  END IF;

  SELECT b.id INTO known_blob_id FROM blob AS b WHERE b.sha256 = stored_sha256 FOR KEY SHARE;
  IF known_blob_id IS NULL THEN
    UPDATE blob SET sha256 = stored_sha256, file_bytes = stored_file_bytes WHERE id = stored_blob_id;
    RETURN stored_blob_id;
  END IF;
  PERFORM 1
  FROM (SELECT p.ordinal, p.bytes FROM blob_part AS p WHERE p.blob_id = stored_blob_id) AS stored
  FULL JOIN (SELECT p.ordinal, p.bytes FROM blob_part AS p WHERE p.blob_id = known_blob_id) AS known ON known.ordinal = stored.ordinal
  WHERE known.bytes IS DISTINCT FROM stored.bytes;
  IF FOUND THEN
    RAISE data_exception USING MESSAGE = 'the bytes differ from those stored under the same sum';
  END IF;
  DELETE FROM blob WHERE id = stored_blob_id;
  RETURN known_blob_id;
END $$;

-- A version with its job. Versions that nobody has begun end: one in work may finish, or a file that changes all the
-- time would starve.
CREATE FUNCTION queue_version(for_collection_id integer, for_document_id bigint, from_blob_id bigint, place integer, rank integer,
  detected_ago interval, is_again boolean, trace_parent text, job_trace_parent text, trace_state text) RETURNS bigint
LANGUAGE sql SET search_path = askbox, pg_temp AS $$
  UPDATE document_version
  SET state = 'superseded', ended_at = now()
  WHERE collection_id = for_collection_id AND document_id = for_document_id AND state = 'queued';

  WITH version AS (
    INSERT INTO document_version (collection_id, document_id, blob_id, burst_place, detected_at, is_retry, traceparent, tracestate)
    VALUES (for_collection_id, for_document_id, from_blob_id, place, now() - detected_ago, is_again, trace_parent, trace_state)
    RETURNING id
  )
  INSERT INTO job (stage, subject_id, collection_id, rank, cost, traceparent, tracestate)
  SELECT 'ingest', version.id, for_collection_id, rank, b.file_bytes, job_trace_parent, trace_state
  FROM version, blob AS b
  WHERE b.id = from_blob_id
  RETURNING subject_id
$$;

CREATE FUNCTION add_version(in_collection_id integer, to_document_id bigint, stored_blob_id bigint, stored_sha256 bytea, stored_file_bytes bigint,
  place integer, rank integer, detected_ago interval, is_again boolean, trace_parent text, job_trace_parent text, trace_state text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
BEGIN
  IF in_collection_id IS NULL OR NOT in_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;
  RETURN queue_version(in_collection_id, to_document_id, settle_blob(stored_blob_id, stored_sha256, stored_file_bytes),
    place, rank, detected_ago, is_again, trace_parent, job_trace_parent, trace_state);
END $$;

-- The original of a failed document once more. NULL when its newest version has not failed.
CREATE FUNCTION retry_document(in_collection_id integer, of_document_id bigint, trace_parent text, job_trace_parent text, trace_state text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
DECLARE
  newest document_version%ROWTYPE;
BEGIN
  IF in_collection_id IS NULL OR NOT in_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;
  PERFORM 1 FROM document AS d WHERE d.collection_id = in_collection_id AND d.id = of_document_id FOR NO KEY UPDATE;
  SELECT v.* INTO newest FROM document_version AS v
  WHERE v.collection_id = in_collection_id AND v.document_id = of_document_id ORDER BY v.id DESC LIMIT 1;
  IF newest.state IS DISTINCT FROM 'failed' THEN
    RETURN NULL;
  END IF;
  DELETE FROM dead_letter AS d WHERE d.stage = 'ingest' AND d.subject_id = newest.id;
  RETURN queue_version(in_collection_id, of_document_id, newest.blob_id, 0, 0, interval '0', true, trace_parent, job_trace_parent, trace_state);
END $$;

-- How many chunks of a version have their vectors.
CREATE FUNCTION count_embedded(in_collection_id integer, of_version_id bigint) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
  SELECT count(*)::integer
  FROM staged_chunk AS s
  JOIN collection AS k ON k.id = s.collection_id
  WHERE s.collection_id = in_collection_id
    AND in_collection_id = ANY (scope())
    AND s.version_id = of_version_id
    AND EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = k.embedding_model_id AND e.text_hash = s.text_hash)
$$;

REVOKE ALL ON FUNCTION
  settle_blob(bigint, bytea, bigint),
  queue_version(integer, bigint, bigint, integer, integer, interval, boolean, text, text, text),
  add_version(integer, bigint, bigint, bytea, bigint, integer, integer, interval, boolean, text, text, text),
  retry_document(integer, bigint, text, text, text),
  count_embedded(integer, bigint)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  add_version(integer, bigint, bigint, bytea, bigint, integer, integer, interval, boolean, text, text, text)
TO askbox_worker, askbox_reader;
GRANT EXECUTE ON FUNCTION retry_document(integer, bigint, text, text, text), count_embedded(integer, bigint) TO askbox_reader;

-- Bytes that are still arriving belong to nobody: they can be added to and dropped, never read.
CREATE POLICY sees_unfinished_blobs ON blob FOR SELECT TO askbox_reader USING (sha256 IS NULL);
CREATE POLICY begins_blobs ON blob FOR INSERT TO askbox_reader WITH CHECK (sha256 IS NULL);
CREATE POLICY drops_unfinished_blobs ON blob FOR DELETE TO askbox_reader USING (sha256 IS NULL);
CREATE POLICY adds_to_unfinished_blobs ON blob_part FOR INSERT TO askbox_reader
  WITH CHECK (EXISTS (SELECT 1 FROM blob AS b WHERE b.id = blob_part.blob_id AND b.sha256 IS NULL));
CREATE POLICY asks_for_scans_only ON job AS RESTRICTIVE FOR INSERT TO askbox_reader WITH CHECK (stage = 'scan');

GRANT SELECT, INSERT, UPDATE, DELETE ON ingest_request_skipped TO askbox_worker;
GRANT INSERT, DELETE ON blob TO askbox_reader;
GRANT INSERT ON blob_part, document_event, ingest_request_document TO askbox_reader;
GRANT SELECT, INSERT ON ingest_request_skipped TO askbox_reader;
GRANT SELECT ON token_usage TO askbox_reader;
GRANT INSERT (collection_id, source_uri), UPDATE (created_at) ON document TO askbox_reader;
GRANT INSERT (id, collection_id, directory, is_recursive, skipped_count), UPDATE (skipped_count) ON ingest_request TO askbox_reader;
GRANT INSERT (stage, subject_id, collection_id, traceparent, tracestate) ON job TO askbox_reader;

RESET ROLE;
