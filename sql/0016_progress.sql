-- depends: 0013_requested
-- How far a version in work is, for those who watch. Nothing here is counted up: what is shown is what lies in the tables.
SET ROLE askbox_owner;

-- How much there is to be staged of a version that takes long; the place of its last chunk tells how much of it is.
ALTER TABLE document_version
  ADD COLUMN page_count integer CONSTRAINT page_count_is_a_count CHECK (page_count > 0),
  ADD COLUMN character_count integer CONSTRAINT character_count_is_a_count CHECK (character_count > 0);

-- While a version is parsed: how many chunks are staged, up to which page and character. While its texts are embedded: how
-- many chunks have their vectors, and how many a second got one since the stage began, in the last minute at most. Of more
-- chunks than `samples_max` an even sample is looked up, so that 200,000 cost what 10,000 do; OFFSET 0 keeps the planner
-- from reading whole tables instead.
CREATE FUNCTION version_progress(of_version_ids bigint[], samples_max integer)
RETURNS TABLE (version_id bigint, staged integer, page integer, char_end integer, embedded integer, per_second double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = askbox, pg_temp ROWS 100 AS $$
  SELECT v.id, coalesce(v.chunk_count, last.ordinal + 1, 0), last.page, last.char_end,
    coalesce(seen.embedded * v.chunk_count / nullif(seen.sampled, 0), 0)::integer,
    seen.lately::double precision * v.chunk_count / nullif(seen.sampled, 0) / greatest(extract(epoch FROM now() - since.at), 1)
  FROM document_version AS v
  JOIN collection AS k ON k.id = v.collection_id
  CROSS JOIN LATERAL (SELECT greatest(v.embedding_at, now() - interval '1 minute') AS at) AS since
  LEFT JOIN LATERAL (
    SELECT s.ordinal, s.page, s.char_end
    FROM staged_chunk AS s
    WHERE v.state = 'parsing' AND s.collection_id = v.collection_id AND s.version_id = v.id
    ORDER BY s.ordinal DESC
    LIMIT 1
  ) AS last ON true
  LEFT JOIN LATERAL (
    SELECT count(*) AS sampled, count(e.created_at) AS embedded, count(*) FILTER (WHERE e.created_at > since.at) AS lately
    FROM generate_series(v.chunk_count - 1, 0, -greatest(ceil(v.chunk_count::numeric / greatest(samples_max, 1)), 1)::integer) AS place (ordinal)
    CROSS JOIN LATERAL (
      SELECT s.text_hash
      FROM staged_chunk AS s
      WHERE s.collection_id = v.collection_id AND s.version_id = v.id AND s.ordinal = place.ordinal
      OFFSET 0
    ) AS text
    LEFT JOIN LATERAL (
      SELECT e.created_at
      FROM embedding AS e
      WHERE e.model_id = k.embedding_model_id AND e.text_hash = text.text_hash
      OFFSET 0
    ) AS e ON true
    WHERE v.state = 'embedding'
  ) AS seen ON true
  WHERE v.id = ANY (of_version_ids) AND v.collection_id = ANY (scope()) AND v.state IN ('parsing', 'embedding')
$$;
REVOKE ALL ON FUNCTION version_progress(bigint[], integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION version_progress(bigint[], integer) TO askbox_reader;

-- It read every chunk of a version for each look.
DROP FUNCTION count_embedded(integer, bigint);

RESET ROLE;
