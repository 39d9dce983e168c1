-- What the query process reads when a question is asked of some documents only.

-- name: retrieve_filtered
-- The candidates of both arms in what the filters leave of collection $2, each with both scores: documents that fit, and of
-- these the chunks that hold every phrase, and nothing that is excluded. For each key of the metadata one of its values must be
-- there; a text that lists several holds each of them.
-- $1 scope int[] · $2 collection_id int · $3 model_id smallint · $4 question text · $5 question_vector halfvec · $6 arm_limit int
-- · $7 scored_limit int · $8 document_ids bigint[], NULL = any · $9 path_prefix text, NULL = any
-- · $10 metadata_keys text[] · $11 metadata_values text[], one for each of the keys, which repeat
-- · $12 phrases text[] · $13 excluded text[]
-- Rows: up to 2 × $6; exact in both arms while the filters leave at most $7 chunks, in the dense one always.
-- The vectors are ordered by the bare column on purpose: an index over them stands on another expression, and would find what
-- is nearest in all documents, with few of the wanted ones among it.
WITH demanded AS MATERIALIZED (
  SELECT pair.key, array_agg(pair.value) AS "values" FROM unnest($10::text[], $11::text[]) AS pair (key, value) GROUP BY pair.key
), kept AS MATERIALIZED (
  SELECT id
  FROM document
  WHERE $2::integer = ANY ($1::integer[]) AND collection_id = $2::integer
    AND ($8::bigint[] IS NULL OR id = ANY ($8::bigint[]))
    AND ($9::text IS NULL OR starts_with(substr(source_uri, strpos(source_uri, ':') + 1), $9::text))
    AND NOT EXISTS (
      SELECT 1 FROM demanded AS d
      WHERE NOT coalesce(metadata ->> d.key = ANY (d."values") OR string_to_array(metadata ->> d.key, ', ') && d."values", false)
    )
), held AS MATERIALIZED (
  SELECT holder.chunk_id
  FROM unnest($12::text[]) WITH ORDINALITY AS phrase (words, place), chunks_holding($2::integer, phrase.words, true) AS holder
  GROUP BY holder.chunk_id
  HAVING count(DISTINCT phrase.place) = cardinality($12::text[])
), barred AS MATERIALIZED (
  SELECT DISTINCT holder.chunk_id
  FROM unnest($13::text[]) AS phrase (words), chunks_holding($2::integer, phrase.words, false) AS holder
), nearest AS MATERIALIZED (
  SELECT v.chunk_id
  FROM kept AS k
  JOIN chunk_vector AS v ON v.collection_id = $2::integer AND v.model_id = $3::smallint AND v.document_id = k.id
  WHERE (cardinality($12::text[]) = 0 OR v.chunk_id IN (SELECT chunk_id FROM held))
    AND v.chunk_id NOT IN (SELECT chunk_id FROM barred)
  ORDER BY v.vector <#> $5::halfvec
  LIMIT $7::integer
), sharing AS MATERIALIZED (
  SELECT chunk_id FROM chunks_sharing($2::integer, $4::text, ARRAY(SELECT id FROM kept), least($7::integer, 300))
), scored AS MATERIALIZED (
  SELECT l.chunk_id, v.document_id, (-(v.vector <#> $5::halfvec))::double precision AS cosine, l.bm25
  FROM lexical_hits($2::integer, $4::text, ARRAY(SELECT chunk_id FROM nearest UNION SELECT chunk_id FROM sharing), $6::integer) AS l
  JOIN chunk_vector AS v ON v.collection_id = $2::integer AND v.model_id = $3::smallint AND v.chunk_id = l.chunk_id
  JOIN kept AS k ON k.id = v.document_id
  WHERE (cardinality($12::text[]) = 0 OR l.chunk_id IN (SELECT chunk_id FROM held))
    AND l.chunk_id NOT IN (SELECT chunk_id FROM barred)
), placed AS (
  SELECT chunk_id, document_id, cosine, bm25,
    row_number() OVER (ORDER BY cosine DESC, chunk_id) AS dense_place,
    bm25 > 0 AND row_number() OVER (ORDER BY bm25 DESC, chunk_id) <= $6::integer AS is_lexical_hit
  FROM scored
)
SELECT chunk_id, document_id, cosine, bm25, is_lexical_hit
FROM placed
WHERE is_lexical_hit OR dense_place <= $6::integer
