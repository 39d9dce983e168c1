-- How far the work is: what the query process tells whoever watches.

-- name: count_in_work
-- How many versions of the scope are in which state of work.
-- $1 scope int[]
-- Rows: 0..3.
SELECT state, count(*)::integer AS versions
FROM document_version
WHERE collection_id = ANY ($1::integer[]) AND state IN ('queued', 'parsing', 'embedding')
GROUP BY state

-- name: list_in_work
-- The $2 versions of the scope in work that are nearest to their end.
-- $1 scope int[] · $2 limit int
-- Rows: 0..$2. State by state, so that each walks its index: to sort a backlog of 100,000 took 50 ms.
SELECT v.document_id, v.id AS version_id, k.name AS collection, d.source_uri, v.state
FROM (
  SELECT stage.place, next.collection_id, next.document_id, next.id, next.state
  FROM unnest(ARRAY['embedding', 'parsing', 'queued']) WITH ORDINALITY AS stage (state, place)
  CROSS JOIN LATERAL (
    SELECT collection_id, document_id, id, state
    FROM document_version
    WHERE collection_id = ANY ($1::integer[]) AND state = stage.state AND state IN ('queued', 'parsing', 'embedding')
    ORDER BY id
    LIMIT $2::integer
  ) AS next
  ORDER BY stage.place, next.id
  LIMIT $2::integer
) AS v
JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
JOIN collection AS k ON k.id = v.collection_id
ORDER BY v.place, v.id

-- name: list_progress
-- How far those of versions $2 are that are parsed or embedded; of each at most about $3 chunks are looked up.
-- $1 scope int[] · $2 version_ids bigint[] · $3 samples_max int
-- Rows: 0..n. 27 ms for a version of 200,000 chunks with 4,096 samples; to look all up took 950.
SELECT p.version_id, v.state, p.staged, p.page, p.char_end, p.embedded, p.per_second, v.page_count, v.character_count,
  greatest(extract(epoch FROM now() - v.parsing_at), 1)::double precision AS parsing_seconds
FROM version_progress($2::bigint[], $3::integer) AS p
JOIN document_version AS v ON v.id = p.version_id
WHERE v.collection_id = ANY ($1::integer[])

-- name: list_ended
-- Versions of the scope that became ready, or failed, within $2, the latest first.
-- $1 scope int[] · $2 age interval · $3 limit int
-- Rows: 0..$3.
SELECT v.document_id, v.version_id, k.name AS collection, d.source_uri, v.state, v.error
FROM (
  SELECT collection_id, document_id, id AS version_id, state, error, ended_at
  FROM document_version
  WHERE collection_id = ANY ($1::integer[]) AND ready_at > now() - $2::interval AND state = 'ready'
  UNION ALL
  SELECT collection_id, document_id, id, state, error, ended_at
  FROM document_version
  WHERE collection_id = ANY ($1::integer[]) AND ended_at > now() - $2::interval AND state = 'failed'
  ORDER BY ended_at DESC, version_id DESC
  LIMIT $3::integer
) AS v
JOIN document AS d ON d.collection_id = v.collection_id AND d.id = v.document_id
JOIN collection AS k ON k.id = v.collection_id
ORDER BY v.ended_at DESC, v.version_id DESC
