-- Invariants. Each statement returns the rows that violate it; 0 rows mean that it holds. The first column names the row.
-- They hold at every instant, also under faults: run in one REPEATABLE READ transaction as the owner.

-- name: failed_version_has_a_reason
SELECT id FROM document_version WHERE state = 'failed' AND btrim(coalesce(error, '')) = ''

-- name: version_state_is_legal
SELECT id FROM document_version WHERE state NOT IN ('queued', 'parsing', 'embedding', 'ready', 'failed', 'superseded')

-- name: one_document_per_source
SELECT min(id) FROM document GROUP BY collection_id, source_uri HAVING count(*) > 1

-- name: live_version_is_ready
SELECT d.id FROM document AS d JOIN document_version AS v ON v.collection_id = d.collection_id AND v.id = d.live_version_id
WHERE v.state <> 'ready' OR v.document_id <> d.id

-- name: ready_version_is_live
SELECT v.id FROM document_version AS v JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
WHERE v.state = 'ready' AND d.live_version_id IS DISTINCT FROM v.id

-- name: no_older_version_over_a_newer_one
SELECT d.id FROM document AS d JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
WHERE v.state = 'ready' AND v.id > d.live_version_id

-- name: attachment_has_its_mail
-- It is named after it, in its collection; and a file of its own is not named so.
SELECT a.id FROM document AS a
LEFT JOIN document AS m ON m.collection_id = a.collection_id AND m.id = a.parent_id
WHERE (a.parent_id IS NOT NULL OR strpos(a.source_uri, '//') > 0)
  AND (m.id IS NULL OR a.source_uri <> m.source_uri || '//' || split_part(a.source_uri, '//', -1))

-- name: document_has_a_version
SELECT d.id FROM document AS d
WHERE NOT EXISTS (SELECT 1 FROM document_version AS v WHERE v.collection_id = d.collection_id AND v.document_id = d.id)

-- name: chunk_has_a_document
SELECT c.id FROM chunk AS c
WHERE NOT EXISTS (SELECT 1 FROM document AS d WHERE d.collection_id = c.collection_id AND d.id = c.document_id)

-- name: chunk_stands_in_the_live_version_once
SELECT c.id FROM chunk AS c
JOIN document AS d ON d.collection_id = c.collection_id AND d.id = c.document_id
LEFT JOIN chunk_position AS p ON p.collection_id = c.collection_id AND p.chunk_id = c.id AND p.version_id = d.live_version_id
GROUP BY c.collection_id, c.id HAVING count(p.chunk_id) <> 1

-- name: only_live_versions_have_positions
SELECT DISTINCT p.version_id FROM chunk_position AS p
WHERE NOT EXISTS (SELECT 1 FROM document AS d WHERE d.collection_id = p.collection_id AND d.live_version_id = p.version_id)

-- name: ordinals_have_no_gap
SELECT version_id FROM chunk_position GROUP BY collection_id, version_id
HAVING min(ordinal) <> 0 OR max(ordinal) <> count(*) - 1

-- name: ready_version_has_its_chunks
SELECT v.id FROM document_version AS v
LEFT JOIN chunk_position AS p ON p.collection_id = v.collection_id AND p.version_id = v.id
WHERE v.state = 'ready' GROUP BY v.collection_id, v.id, v.chunk_count HAVING count(p.chunk_id) <> v.chunk_count

-- name: position_is_as_long_as_its_text
SELECT c.id FROM chunk_position AS p JOIN chunk AS c ON c.collection_id = p.collection_id AND c.id = p.chunk_id
WHERE p.char_end - p.char_start <> length(c.text)

-- name: lines_are_no_more_than_the_text_has
SELECT c.id FROM chunk_position AS p JOIN chunk AS c ON c.collection_id = p.collection_id AND c.id = p.chunk_id
WHERE cardinality(p.lines) > 1 + length(c.text) - length(replace(c.text, E'\n', ''))

-- name: chunk_has_one_vector_of_its_model
SELECT c.id FROM chunk AS c
JOIN collection AS k ON k.id = c.collection_id
LEFT JOIN chunk_vector AS v ON v.collection_id = c.collection_id AND v.chunk_id = c.id AND v.model_id = k.embedding_model_id
GROUP BY c.collection_id, c.id HAVING count(v.chunk_id) <> 1

-- name: vector_has_a_chunk
SELECT v.chunk_id FROM chunk_vector AS v
WHERE NOT EXISTS (SELECT 1 FROM chunk AS c WHERE c.collection_id = v.collection_id AND c.id = v.chunk_id AND c.document_id = v.document_id)

-- name: vector_is_of_its_model
SELECT v.chunk_id FROM chunk_vector AS v JOIN embedding_model AS m ON m.id = v.model_id
WHERE vector_dims(v.vector) <> m.dimension

-- name: vector_is_not_zero
SELECT v.chunk_id FROM chunk_vector AS v WHERE l2_norm(v.vector) < 0.5

-- name: cached_vector_is_of_its_model
SELECT encode(e.text_hash, 'hex') FROM embedding AS e JOIN embedding_model AS m ON m.id = e.model_id
WHERE vector_dims(e.vector) <> m.dimension OR l2_norm(e.vector) < 0.5

-- name: text_is_embedded_once
SELECT encode(min(text_hash), 'hex') FROM embedding GROUP BY model_id, text_hash HAVING count(*) > 1

-- name: vector_is_that_of_its_text
SELECT c.id FROM chunk AS c
JOIN chunk_vector AS v ON v.collection_id = c.collection_id AND v.chunk_id = c.id
JOIN embedding AS e ON e.model_id = v.model_id AND e.text_hash = c.text_hash
WHERE v.vector::text <> e.vector::text

-- name: text_hash_is_that_of_the_text
SELECT id FROM chunk
WHERE text_hash <> sha256(convert_to(CASE WHEN prefix = '' THEN text ELSE prefix || E'\n' || text END, 'UTF8'))

-- name: lexeme_count_is_that_of_the_text
SELECT id FROM chunk WHERE lexeme_count <> tsv_length(tsv)

-- name: collection_agrees_down_the_chain
SELECT v.chunk_id FROM chunk_vector AS v JOIN chunk AS c ON c.id = v.chunk_id WHERE c.collection_id <> v.collection_id

-- name: staged_chunks_belong_to_versions_in_work
SELECT DISTINCT s.version_id FROM staged_chunk AS s
JOIN document_version AS v ON v.collection_id = s.collection_id AND v.id = s.version_id
WHERE v.state NOT IN ('parsing', 'embedding')

-- name: staged_version_has_its_chunks
SELECT v.id FROM document_version AS v
LEFT JOIN staged_chunk AS s ON s.collection_id = v.collection_id AND s.version_id = v.id
WHERE v.state = 'embedding' GROUP BY v.collection_id, v.id, v.chunk_count HAVING count(s.ordinal) <> v.chunk_count

-- name: version_in_work_has_a_job
SELECT v.id FROM document_version AS v
WHERE v.state IN ('queued', 'parsing')
  AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'ingest' AND j.subject_id = v.id)
  AND NOT EXISTS (SELECT 1 FROM dead_letter AS d WHERE d.stage = 'ingest' AND d.subject_id = v.id)

-- name: folder_in_scan_has_a_job
SELECT r.id FROM ingest_request AS r
WHERE r.directory IS NOT NULL AND r.scanned_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'scan' AND j.subject_id = r.number)
  AND NOT EXISTS (SELECT 1 FROM dead_letter AS d WHERE d.stage = 'scan' AND d.subject_id = r.number)

-- name: complete_version_is_published_soon
-- All its vectors are there, no job is left to ask for it, and a minute of sweeps has not published it.
SELECT v.id FROM document_version AS v
JOIN collection AS k ON k.id = v.collection_id
WHERE v.state = 'embedding' AND v.embedding_at < now() - interval '60 seconds'
  AND NOT EXISTS (
    SELECT 1 FROM staged_chunk AS s
    WHERE s.collection_id = v.collection_id AND s.version_id = v.id
      AND (EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'embed' AND j.text_hash = s.text_hash AND j.subject_id = k.embedding_model_id)
        OR EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = k.embedding_model_id AND e.text_hash = s.text_hash
                   AND e.created_at > now() - interval '60 seconds'))
  )

-- name: lease_is_swept_in_time
-- Nobody sweeps while the server is away, and when it is back a doubtful lease waits until its worker had time to be seen.
SELECT l.id FROM lease AS l
WHERE l.expires_at < now() - interval '60 seconds' AND pg_postmaster_start_time() < now() - interval '20 seconds'

-- name: leased_job_has_a_lease
SELECT j.id FROM job AS j WHERE j.lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.id = j.lease_id)

-- name: lease_owns_jobs
SELECT l.id FROM lease AS l WHERE NOT EXISTS (SELECT 1 FROM job AS j WHERE j.lease_id = l.id)

-- name: attempts_are_bounded
SELECT id FROM job WHERE attempt > max_attempts

-- name: one_job_per_subject
SELECT min(id) FROM job GROUP BY stage, subject_id, text_hash HAVING count(*) > 1

-- name: dead_letter_has_a_reason
SELECT id FROM dead_letter WHERE btrim(error) = ''

-- name: version_has_its_original
SELECT v.id FROM document_version AS v JOIN blob AS b ON b.id = v.blob_id WHERE b.sha256 IS NULL

-- name: original_has_all_its_bytes
SELECT b.id FROM blob AS b
LEFT JOIN blob_part AS p ON p.blob_id = b.id
WHERE b.sha256 IS NOT NULL GROUP BY b.id HAVING coalesce(sum(octet_length(p.bytes)), 0) <> b.file_bytes
  OR coalesce(max(p.ordinal), -1) <> count(p.ordinal) - 1

-- name: no_input_was_truncated
SELECT id FROM document_version WHERE truncated_count <> 0

-- name: language_of_every_chunk_is_asked
SELECT c.id FROM chunk AS c
WHERE NOT EXISTS (SELECT 1 FROM collection_language AS l WHERE l.collection_id = c.collection_id AND l.language = c.language)

-- name: key_is_hashed
SELECT id FROM api_key WHERE octet_length(sha256) <> 32

-- name: row_level_security_is_forced
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'askbox'::regnamespace
  AND c.relname IN ('document', 'document_version', 'staged_chunk', 'chunk', 'chunk_position', 'chunk_vector', 'blob', 'blob_part', 'job',
    'dead_letter', 'term_stat', 'collection_stat', 'collection', 'tombstone', 'document_event', 'collection_language', 'ingest_request', 'ingest_request_document', 'ingest_request_skipped')
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity)

-- name: reader_cannot_bypass_security
SELECT r.rolname FROM pg_roles AS r
WHERE pg_has_role('askbox_reader', r.oid, 'MEMBER') AND (r.rolsuper OR r.rolbypassrls OR r.rolname = 'askbox_owner')

-- name: no_index_is_invalid
-- That of a collection may be, as long as its job is there to build it or to drop what a broken build left behind.
SELECT i.indexrelid::regclass::text FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
LEFT JOIN search_index AS s ON s.name = c.relname
WHERE c.relnamespace = 'askbox'::regnamespace AND NOT (i.indisvalid AND i.indisready)
  AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)
  AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'index' AND j.subject_id = s.collection_id)
  AND NOT EXISTS (SELECT 1 FROM dead_letter AS d
    WHERE d.stage = 'index' AND d.subject_id = s.collection_id AND d.died_at > now() - interval '60 seconds')

-- name: search_index_has_a_collection
-- Or a job that drops it.
SELECT s.name FROM search_index AS s
WHERE NOT EXISTS (SELECT 1 FROM collection AS k WHERE k.id = s.collection_id)
  AND NOT EXISTS (SELECT 1 FROM job AS j WHERE j.stage = 'index' AND j.subject_id = s.collection_id)
  AND NOT EXISTS (SELECT 1 FROM dead_letter AS d
    WHERE d.stage = 'index' AND d.subject_id = s.collection_id AND d.died_at > now() - interval '60 seconds')

-- name: no_constraint_is_unvalidated
SELECT conname FROM pg_constraint WHERE NOT convalidated AND connamespace = 'askbox'::regnamespace

-- name: no_transaction_is_forgotten
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND xact_start < clock_timestamp() - interval '60 seconds'
