SET ROLE askbox_owner;
ALTER TABLE collection_stat DROP COLUMN unlexed_below;
UPDATE chunk SET tsv = ts_filter(tsv, '{a,c,d}') WHERE tsv <> ts_filter(tsv, '{a,c,d}');
DROP FUNCTION question_terms(integer[], text);

-- The best `hit_limit` chunks by BM25, and the BM25 of every chunk in `dense_chunk_ids` (0 where no word is shared).
--
-- Candidates are found over the GIN index with the rarest lexemes whose document frequencies sum up to at most
-- min(0.11 N, 5000), but 500 when the collection is small, and at least one known lexeme: without the budget common words
-- make it rank everything (47–172 ms at 93,000 chunks; with it 7–38). The best 300 by ts_rank are scored. Of a question
-- with more than 200 lexemes the unknown ones go first.
CREATE OR REPLACE FUNCTION lexical_hits(asked_collection_id integer, question text, dense_chunk_ids bigint[], hit_limit integer)
RETURNS TABLE (chunk_id bigint, bm25 double precision, is_hit boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 200
SET search_path = askbox, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  candidate_limit CONSTANT integer := greatest(300, hit_limit);
  k1 CONSTANT double precision := 1.2;
  b CONSTANT double precision := 0.75;
  total_chunks double precision;
  mean_length double precision;
  lexemes text[];
  idf double precision[];
  wanted tsquery;
BEGIN
  IF asked_collection_id IS NULL OR NOT asked_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;

  SELECT s.chunk_count, s.lexeme_count::double precision / greatest(s.chunk_count, 1)
  INTO total_chunks, mean_length
  FROM collection_stat AS s WHERE s.collection_id = asked_collection_id;
  total_chunks := greatest(coalesce(total_chunks, 0), 1);
  mean_length := greatest(coalesce(mean_length, 100), 1);

  WITH term AS MATERIALIZED (
    SELECT t.lexeme, t.chunk_count FROM question_terms(asked_collection_id, question) AS t
    ORDER BY t.chunk_count = 0, t.chunk_count, t.lexeme LIMIT 200
  ), budgeted AS (
    SELECT t.lexeme,
           sum(t.chunk_count) OVER ascending = t.chunk_count
             OR sum(t.chunk_count) OVER ascending <= greatest(least(0.11 * total_chunks, 5000), 500) AS is_wanted
    FROM term AS t
    WINDOW ascending AS (ORDER BY t.chunk_count, t.lexeme)
  )
  SELECT (SELECT array_agg(t.lexeme ORDER BY t.lexeme) FROM term AS t),
         (SELECT array_agg(ln(1 + greatest(total_chunks - t.chunk_count + 0.5, 0.5) / (t.chunk_count + 0.5)) ORDER BY t.lexeme) FROM term AS t),
         (SELECT string_agg('''' || replace(replace(w.lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
          FROM budgeted AS w WHERE w.is_wanted)
  INTO lexemes, idf, wanted;

  RETURN QUERY
  WITH candidate AS MATERIALIZED (
    SELECT c.id, c.tsv, c.lexeme_count
    FROM chunk AS c
    WHERE wanted IS NOT NULL AND c.collection_id = asked_collection_id AND c.tsv @@ wanted
    ORDER BY ts_rank(c.tsv, wanted, 1) DESC, c.id
    LIMIT candidate_limit
  ), scored AS MATERIALIZED (
    SELECT pool.id, pool.is_candidate, coalesce(score.bm25, 0) AS bm25
    FROM (
      SELECT c.id, c.tsv, c.lexeme_count, true AS is_candidate FROM candidate AS c
      UNION ALL
      SELECT c.id, c.tsv, c.lexeme_count, false FROM chunk AS c
      WHERE c.collection_id = asked_collection_id AND c.id = ANY (dense_chunk_ids)
        AND c.id NOT IN (SELECT seen.id FROM candidate AS seen)
    ) AS pool
    CROSS JOIN LATERAL (
      SELECT sum(idf[array_position(lexemes, word.lexeme)] * cardinality(word.positions) * (k1 + 1)
                 / (cardinality(word.positions) + k1 * (1 - b + b * pool.lexeme_count / mean_length))) AS bm25
      FROM unnest(pool.tsv) AS word WHERE word.lexeme = ANY (lexemes)
    ) AS score
  ), ranked AS (
    SELECT s.id, s.bm25, s.is_candidate AND s.bm25 > 0
             AND row_number() OVER (ORDER BY s.is_candidate DESC, s.bm25 DESC, s.id) <= hit_limit AS is_hit
    FROM scored AS s
  )
  SELECT r.id, r.bm25, r.is_hit FROM ranked AS r WHERE r.is_hit OR r.id = ANY (dense_chunk_ids);
END $$;

CREATE OR REPLACE FUNCTION chunk_tsv(language regconfig, prefix text, content text, path_words text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT setweight(to_tsvector(language, prefix), 'A')
      || to_tsvector(language, content)
      || setweight(to_tsvector(language, path_words), 'C')
$$;

CREATE OR REPLACE FUNCTION tsv_length(tsv tsvector) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(sum(cardinality(t.positions)), 0)::integer FROM unnest(tsv) AS t
$$;

DROP FUNCTION text_lexemes(regconfig, text);
DROP FUNCTION identifier_tsv(regconfig, text, tsvector);
DROP FUNCTION identifier_words(text[]);
DROP FUNCTION identifier_names(text);
DROP FUNCTION identifiers(text);
RESET ROLE;
