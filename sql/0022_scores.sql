-- depends: 0021_apart
-- BM25 of the candidates without taking their words apart, for terms that were read before.
SET ROLE askbox_owner;

-- How often a text holds the one word of a query. With equal weights ts_rank is the sum of 1/n² for its occurrences, of π²/6; what
-- is missing from that is 1/(n + ½), but for less than 0.02 of an occurrence. A tsvector keeps at most 255 places of a word.
CREATE FUNCTION occurrences(tsv tsvector, word tsquery) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT round(1 / ((1 - ts_rank('{1, 1, 1, 1}', tsv, word)) * 1.64493406685) - 0.5)
$$;

-- The best `hit_limit` chunks by BM25 for terms, as question_terms gives them, and the BM25 of every chunk in `dense_chunk_ids` (0
-- where no word is shared). A chunk is compared with the words of its own language; what a word tells is counted over all
-- collections of the scope.
--
-- Candidates are found over the GIN index with the rarest words whose document frequencies sum up to at most
-- min(0.11 N, 5000), but 500 when the collection is small, and at least one known word: without the budget common words
-- make it rank everything (47–172 ms at 93,000 chunks; with it 7–38). The best 300 by ts_rank are scored. Of a question
-- with more than 200 lexemes the unknown ones go first.
CREATE FUNCTION term_hits(asked_collection_id integer, terms jsonb, dense_chunk_ids bigint[], hit_limit integer)
RETURNS TABLE (chunk_id bigint, bm25 double precision, is_hit boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 200
SET search_path = askbox, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  candidate_limit CONSTANT integer := greatest(300, hit_limit);
  k1 CONSTANT double precision := 1.2;
  b CONSTANT double precision := 0.75;
  -- Whoever writes `foo_bar` means it, not foo and bar.
  identifier_weight CONSTANT double precision := 1.5;
  -- Of D, C, B and A: a word of the text, of the path, an identifier, a word of the title. All alike, since ts_rank only chooses:
  -- on SciFact's training questions BM25 alone ranks 0.675 so (nDCG@10), and 0.656 with the weights that ts_rank has by itself.
  class_weights CONSTANT real[] := '{1, 1, 1, 1}';
  total_chunks double precision;
  mean_length double precision;
  spoken regconfig[];
  words tsquery[];
  term_weights double precision[];
  language_bits bigint[];
  wanted tsquery;
BEGIN
  IF asked_collection_id IS NULL OR NOT asked_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;

  SELECT greatest(coalesce(max(s.chunk_count) FILTER (WHERE s.collection_id = asked_collection_id), 0), 1),
    greatest(coalesce(sum(s.lexeme_count)::double precision / nullif(sum(s.chunk_count), 0), 100), 1)
  INTO total_chunks, mean_length
  FROM collection_stat AS s WHERE s.collection_id = ANY (scope());
  spoken := ARRAY(SELECT l.language FROM collection_language AS l WHERE l.collection_id = asked_collection_id ORDER BY l.language);

  WITH term AS MATERIALIZED (
    SELECT t.lexeme, t.word, coalesce(s.chunk_count, 0) AS chunk_count,
      ('''' || replace(replace(t.lexeme, '\', '\\'), '''', '''''') || '''')::tsquery AS query,
      t.idf * CASE WHEN t.is_identifier THEN identifier_weight ELSE 1 END AS weight, t.idf,
      (SELECT bit_or(1::bigint << array_position(spoken, l.language) - 1)
       FROM unnest(t.languages) AS l (language) WHERE l.language = ANY (spoken)) AS bits
    FROM jsonb_to_recordset(terms) AS t (
      lexeme text, languages regconfig[], word integer, is_identifier boolean, idf double precision)
    LEFT JOIN term_stat AS s ON s.collection_id = asked_collection_id AND s.lexeme = t.lexeme
    WHERE t.languages && spoken
    ORDER BY coalesce(s.chunk_count, 0) = 0, t.idf DESC, t.word, t.lexeme LIMIT 200
  ), budgeted AS (
    SELECT t.query,
           sum(t.chunk_count) OVER ascending = sum(t.chunk_count) OVER (PARTITION BY t.idf, t.word)
             OR sum(t.chunk_count) OVER ascending <= greatest(least(0.11 * total_chunks, 5000), 500) AS is_wanted
    FROM term AS t
    WINDOW ascending AS (ORDER BY t.idf DESC, t.word)
  )
  SELECT (SELECT array_agg(t.query ORDER BY t.lexeme) FROM term AS t),
         (SELECT array_agg(t.weight ORDER BY t.lexeme) FROM term AS t),
         (SELECT array_agg(t.bits ORDER BY t.lexeme) FROM term AS t),
         (SELECT string_agg(w.query::text, ' | ')::tsquery FROM budgeted AS w WHERE w.is_wanted)
  INTO words, term_weights, language_bits, wanted;

  RETURN QUERY
  WITH candidate AS MATERIALIZED (
    SELECT c.id, c.tsv, c.lexeme_count, c.language
    FROM chunk AS c
    WHERE wanted IS NOT NULL AND c.collection_id = asked_collection_id AND c.tsv @@ wanted
    ORDER BY ts_rank(class_weights, c.tsv, wanted, 1) DESC, c.id
    LIMIT candidate_limit
  ), scored AS MATERIALIZED (
    SELECT pool.id, pool.is_candidate, coalesce(score.bm25, 0) AS bm25
    FROM (
      SELECT c.id, c.tsv, c.lexeme_count, c.language, true AS is_candidate FROM candidate AS c
      UNION ALL
      SELECT c.id, c.tsv, c.lexeme_count, c.language, false FROM chunk AS c
      WHERE c.collection_id = asked_collection_id AND c.id = ANY (dense_chunk_ids)
        AND c.id NOT IN (SELECT seen.id FROM candidate AS seen)
    ) AS pool
    CROSS JOIN LATERAL (
      SELECT 1::bigint << array_position(spoken, pool.language) - 1 AS bit,
        k1 * (1 - b + b * pool.lexeme_count / mean_length) AS norm
    ) AS own
    CROSS JOIN LATERAL (
      SELECT sum(term.weight * found.times * (k1 + 1) / (found.times + own.norm)) AS bm25
      FROM unnest(words, term_weights, language_bits) AS term (word, weight, bits)
      CROSS JOIN LATERAL (SELECT occurrences(pool.tsv, term.word) AS times) AS found
      WHERE term.bits & own.bit <> 0
    ) AS score
  ), ranked AS (
    SELECT s.id, s.bm25, s.is_candidate AND s.bm25 > 0
             AND row_number() OVER (ORDER BY s.is_candidate DESC, s.bm25 DESC, s.id) <= hit_limit AS is_hit
    FROM scored AS s
  )
  SELECT r.id, r.bm25, r.is_hit FROM ranked AS r WHERE r.is_hit OR r.id = ANY (dense_chunk_ids);
END $$;

-- The same for whoever has the question alone.
CREATE OR REPLACE FUNCTION lexical_hits(asked_collection_id integer, question text, dense_chunk_ids bigint[], hit_limit integer)
RETURNS TABLE (chunk_id bigint, bm25 double precision, is_hit boolean)
LANGUAGE sql STABLE SECURITY INVOKER ROWS 200 SET search_path = askbox, pg_temp AS $$
  SELECT h.chunk_id, h.bm25, h.is_hit
  FROM term_hits(
    asked_collection_id,
    (SELECT jsonb_agg(to_jsonb(t)) FROM question_terms(scope(), question) AS t),
    dense_chunk_ids,
    hit_limit
  ) AS h
$$;

REVOKE ALL ON FUNCTION occurrences(tsvector, tsquery), term_hits(integer, jsonb, bigint[], integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION occurrences(tsvector, tsquery), term_hits(integer, jsonb, bigint[], integer) TO askbox_reader;

RESET ROLE;
