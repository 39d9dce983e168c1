-- depends: 0018_pauses
-- Words of several languages side by side, and names that the parser takes apart or glues together.
SET ROLE askbox_owner;

-- What is being published now would be committed with the words of before, and nobody would know: wait for it.
LOCK TABLE chunk IN SHARE ROW EXCLUSIVE MODE;

-- The identifiers of a text, as they are written: `foo_bar`, `fooBar`, `src/app/main.py`, `ERR-1234`, `v1.2.3`, `C++`. Not
-- abbreviations such as `U.S.`, nor words with a hyphen, which the parser divides well, nor numbers.
CREATE FUNCTION identifiers(content text) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT i.name
  FROM (
    SELECT CASE WHEN word[1] ~ '^[[:alpha:]](\+\+|#)[.:]*$' THEN rtrim(word[1], '.:') ELSE btrim(word[1], './\:@~+#-') END AS name
    FROM regexp_matches(
      content,
      '[^\s()\[\]{}<>"''`,;|!?*=&%$^\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2026\u2013\u2014]*'
      '(?:[[:alnum:]][./\\:@~+#]+[[:alnum:]_]|_|[[:lower:]][[:upper:]]|[[:alpha:]]-+[0-9]|[0-9]-+[[:alpha:]]|\m[[:alpha:]](?:\+\+|#))'
      '[^\s()\[\]{}<>"''`,;|!?*=&%$^\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2026\u2013\u2014]*',
      'g') AS word
  ) AS i
  WHERE i.name ~ '[[:alpha:]]|[0-9]\.[0-9]+\.[0-9]'
    AND i.name !~ '^([[:alpha:]]\.)*[[:alpha:]]?$'
$$;

-- The names that an identifier is found by as a whole: itself, each part of a path or an address that is one, a version
-- without its `v` and without its last number.
CREATE FUNCTION identifier_names(identifier text) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT DISTINCT lower(name)
  FROM (
    SELECT identifier AS name
    UNION ALL
    SELECT part FROM regexp_split_to_table(identifier, '[/\\:@]+') AS part WHERE part ~ '[[:alnum:]][_.-]+[[:alnum:]]'
    UNION ALL
    SELECT unnest(regexp_match(identifier, '^[vV]?([0-9]+(?:\.[0-9]+)+.*)$'))
    UNION ALL
    SELECT unnest(regexp_match(identifier, '^[vV]?([0-9]+\.[0-9]+)\.[0-9]'))
  ) AS every
  WHERE char_length(name) <= 200
$$;

-- The words in identifiers, to be read as words of a language: of `fooBar` foo and bar. A letter alone is none, nor is
-- a number of two digits.
CREATE FUNCTION identifier_words(identifiers text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT regexp_replace(
    regexp_replace(
      regexp_replace(translate(array_to_string(identifiers, ' '), '_./\:@~+#-', '          '),
        '([[:lower:]0-9])([[:upper:]])', '\1 \2', 'g'),
      '([[:upper:]])([[:upper:]][[:lower:]])', '\1 \2', 'g'),
    '\m(?:[[:alpha:]]|[0-9]{1,2})\M', '', 'g')
$$;

-- What names add to the words of a text, in weight B, which counts for no text's length. `known` are the lexemes that it has.
CREATE FUNCTION identifier_tsv(language regconfig, content text, known tsvector) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  written CONSTANT text[] := ARRAY(SELECT i FROM identifiers(content) AS i);
  names text;
BEGIN
  IF cardinality(written) = 0 THEN
    RETURN ''::tsvector;
  END IF;
  SELECT string_agg('''' || replace(replace(name, '\', '\\'), '''', '''''') || ''':' || least(place, 16383), ' ')
  INTO names
  FROM unnest(written) WITH ORDINALITY AS w (identifier, place), identifier_names(w.identifier) AS name;
  RETURN ts_delete(
    setweight(coalesce(names, '')::tsvector || to_tsvector(language, identifier_words(written)), 'B'), tsvector_to_array(known));
END $$;

-- The words of a text and its identifiers: what is indexed of it, and what a question and a sentence are compared by.
CREATE FUNCTION text_lexemes(language regconfig, content text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  words CONSTANT tsvector := to_tsvector(language, content);
BEGIN
  RETURN words || identifier_tsv(language, content, words);
END $$;

-- What is indexed of a chunk: its prefix (weight A), its text, the words of its path (C) and the identifiers of all (B).
CREATE OR REPLACE FUNCTION chunk_tsv(language regconfig, prefix text, content text, path_words text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  words CONSTANT tsvector := setweight(to_tsvector(language, prefix), 'A')
    || to_tsvector(language, content)
    || setweight(to_tsvector(language, translate(path_words, '_/\.-', '     ')), 'C');
BEGIN
  RETURN words || identifier_tsv(language, concat_ws(E'\n', prefix, content, path_words), words);
END $$;

CREATE OR REPLACE FUNCTION tsv_length(tsv tsvector) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(sum(cardinality(t.positions)), 0)::integer FROM unnest(tsv) AS t WHERE t.weights[1] <> 'B'
$$;

-- The lexemes of a question in each language that the collections hold, and how much each tells.
--
-- word: what is one word of the question, however the languages stem it, has one number. A word is as rare as all its lexemes
-- together are in all the collections: were each language and each collection counted for itself, what a single chunk in another
-- language holds would seem rare, and scores could not be compared. The parser gives a word the same place in every language.
--
-- Words that are mere grammar in the language of the question, which is the one that drops most of its words, are grammar in
-- every language: `simple` knows none, and "when does the" were the rarest words of a question beside one chunk of JSON.
CREATE FUNCTION question_terms(asked_collection_ids integer[], question text)
RETURNS TABLE (lexeme text, languages regconfig[], word integer, is_identifier boolean, idf double precision)
LANGUAGE sql STABLE SET search_path = askbox, pg_temp SET plan_cache_mode = force_generic_plan AS $$
  WITH language AS MATERIALIZED (
    SELECT DISTINCT l.language FROM collection_language AS l WHERE l.collection_id = ANY (asked_collection_ids)
  ), tried AS MATERIALIZED (
    SELECT l.language, true AS is_held FROM language AS l
    UNION ALL
    -- `simple` knows every word, and where there is no other language the question may be in English all the same.
    SELECT l.language, false
    FROM unnest(ARRAY['simple', 'english']::regconfig[]) AS l (language)
    WHERE l.language NOT IN (SELECT language.language FROM language)
      AND EXISTS (SELECT 1 FROM language WHERE language.language <> 'english'::regconfig)
  ), spoken AS MATERIALIZED (
    SELECT l.language, l.is_held, w.lexeme, p.place::integer AS place
    FROM tried AS l
    CROSS JOIN LATERAL unnest(to_tsvector(l.language, question)) AS w
    CROSS JOIN LATERAL unnest(w.positions) AS p (place)
  ), dropped AS MATERIALIZED (
    SELECT l.language, w.place
    FROM tried AS l
    CROSS JOIN (SELECT DISTINCT s.place FROM spoken AS s WHERE s.language = 'simple'::regconfig) AS w
    LEFT JOIN spoken AS known ON known.language = l.language AND known.place = w.place
    WHERE known.place IS NULL
  ), asked AS MATERIALIZED (
    SELECT l.language, coalesce(array_agg(d.place) FILTER (WHERE d.place IS NOT NULL), '{}') AS places
    FROM tried AS l
    LEFT JOIN dropped AS d ON d.language = l.language
    GROUP BY l.language
    ORDER BY count(d.place) DESC, l.language <> 'english'::regconfig, l.language
    LIMIT 1
  ), grammar AS MATERIALIZED (
    SELECT DISTINCT p.place FROM asked AS a CROSS JOIN LATERAL unnest(a.places) AS p (place)
  ), verdict AS MATERIALIZED (
    -- A single word is little evidence of a language.
    SELECT count(*) = 1 AS is_single, NOT EXISTS (
      SELECT 1 FROM spoken AS s LEFT JOIN grammar AS g ON g.place = s.place WHERE s.is_held AND g.place IS NULL
    ) AS is_all
    FROM grammar
  ), meant AS (
    SELECT s.language, s.lexeme, s.place, false AS is_identifier
    FROM spoken AS s
    CROSS JOIN verdict AS v
    LEFT JOIN grammar AS g ON g.place = s.place
    WHERE s.is_held AND (g.place IS NULL OR (v.is_single AND s.language <> 'simple'::regconfig) OR v.is_all)
  ), named AS MATERIALIZED (
    SELECT ARRAY(SELECT i FROM identifiers(question) AS i LIMIT 100) AS identifiers
  ), lexed AS MATERIALIZED (
    SELECT m.language, m.lexeme, m.place, m.is_identifier FROM meant AS m
    UNION ALL
    SELECT l.language, name, 20000 + dense_rank() OVER (ORDER BY name)::integer, true
    FROM named AS n
    CROSS JOIN LATERAL unnest(n.identifiers) AS i (identifier)
    CROSS JOIN LATERAL identifier_names(i.identifier) AS name
    CROSS JOIN language AS l
    UNION ALL
    SELECT l.language, w.lexeme, 40000 + p.place, false
    FROM named AS n
    CROSS JOIN language AS l
    CROSS JOIN LATERAL unnest(to_tsvector(l.language, identifier_words(n.identifiers))) AS w
    CROSS JOIN LATERAL unnest(w.positions) AS p (place)
    WHERE cardinality(n.identifiers) > 0
  ), counted AS MATERIALIZED (
    SELECT t.lexeme, sum(coalesce(s.chunk_count, 0)) AS chunk_count
    FROM (SELECT DISTINCT l.lexeme FROM lexed AS l) AS t
    LEFT JOIN term_stat AS s ON s.collection_id = ANY (asked_collection_ids) AND s.lexeme = t.lexeme
    GROUP BY t.lexeme
  ), total AS (
    SELECT greatest(coalesce(sum(s.chunk_count), 0), 1)::double precision AS chunk_count
    FROM collection_stat AS s WHERE s.collection_id = ANY (asked_collection_ids)
  ), gathered AS (
    SELECT l.lexeme, array_agg(DISTINCT l.language ORDER BY l.language) AS languages, min(l.place) AS word, bool_or(l.is_identifier) AS is_identifier
    FROM lexed AS l
    GROUP BY l.lexeme
  ), pooled AS (
    SELECT same.lexeme, sum(c.chunk_count)::double precision AS chunk_count
    FROM (SELECT DISTINCT l.lexeme, other.lexeme AS other FROM lexed AS l JOIN lexed AS other USING (place)) AS same
    JOIN counted AS c ON c.lexeme = same.other
    GROUP BY same.lexeme
  )
  SELECT g.lexeme, g.languages, g.word, g.is_identifier,
    ln(1 + greatest(n.chunk_count - p.chunk_count + 0.5, 0.5) / (p.chunk_count + 0.5))
  FROM gathered AS g
  JOIN pooled AS p ON p.lexeme = g.lexeme
  CROSS JOIN total AS n
$$;

-- The best `hit_limit` chunks by BM25, and the BM25 of every chunk in `dense_chunk_ids` (0 where no word is shared). A chunk is
-- compared with the words of its own language; what a word tells is counted over all collections of the scope.
--
-- Candidates are found over the GIN index with the rarest words whose document frequencies sum up to at most
-- min(0.11 N, 5000), but 500 when the collection is small, and at least one known word: without the budget common words
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
  -- Whoever writes `foo_bar` means it, not foo and bar.
  identifier_weight CONSTANT double precision := 1.5;
  -- Of D, C, B and A: a word of the text, of the path, an identifier, a word of the title. All alike, since ts_rank only chooses:
  -- on SciFact's training questions BM25 alone ranks 0.675 so (nDCG@10), and 0.656 with the weights that ts_rank has by itself.
  class_weights CONSTANT real[] := '{1, 1, 1, 1}';
  total_chunks double precision;
  mean_length double precision;
  spoken regconfig[];
  lexemes text[];
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
      t.idf * CASE WHEN t.is_identifier THEN identifier_weight ELSE 1 END AS weight, t.idf,
      (SELECT bit_or(1::bigint << array_position(spoken, l.language) - 1)
       FROM unnest(t.languages) AS l (language) WHERE l.language = ANY (spoken)) AS bits
    FROM question_terms(scope(), question) AS t
    LEFT JOIN term_stat AS s ON s.collection_id = asked_collection_id AND s.lexeme = t.lexeme
    WHERE t.languages && spoken
    ORDER BY coalesce(s.chunk_count, 0) = 0, t.idf DESC, t.word, t.lexeme LIMIT 200
  ), budgeted AS (
    SELECT t.lexeme,
           sum(t.chunk_count) OVER ascending = sum(t.chunk_count) OVER (PARTITION BY t.idf, t.word)
             OR sum(t.chunk_count) OVER ascending <= greatest(least(0.11 * total_chunks, 5000), 500) AS is_wanted
    FROM term AS t
    WINDOW ascending AS (ORDER BY t.idf DESC, t.word)
  )
  SELECT (SELECT array_agg(t.lexeme ORDER BY t.lexeme) FROM term AS t),
         (SELECT array_agg(t.weight ORDER BY t.lexeme) FROM term AS t),
         (SELECT array_agg(t.bits ORDER BY t.lexeme) FROM term AS t),
         (SELECT string_agg('''' || replace(replace(w.lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
          FROM budgeted AS w WHERE w.is_wanted)
  INTO lexemes, term_weights, language_bits, wanted;

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
    CROSS JOIN LATERAL (SELECT 1::bigint << array_position(spoken, pool.language) - 1 AS bit) AS own
    CROSS JOIN LATERAL (
      SELECT sum(term_weights[term.place] * cardinality(word.positions) * (k1 + 1)
                 / (cardinality(word.positions) + k1 * (1 - b + b * pool.lexeme_count / mean_length))) AS bm25
      FROM unnest(pool.tsv) AS word
      CROSS JOIN LATERAL (SELECT array_position(lexemes, word.lexeme) AS place) AS term
      WHERE word.lexeme = ANY (lexemes) AND language_bits[term.place] & own.bit <> 0
    ) AS score
  ), ranked AS (
    SELECT s.id, s.bm25, s.is_candidate AND s.bm25 > 0
             AND row_number() OVER (ORDER BY s.is_candidate DESC, s.bm25 DESC, s.id) <= hit_limit AS is_hit
    FROM scored AS s
  )
  SELECT r.id, r.bm25, r.is_hit FROM ranked AS r WHERE r.is_hit OR r.id = ANY (dense_chunk_ids);
END $$;

-- REBUILD
-- What was published before is lexed anew by the next `index` job of its collection, from the newest chunk on: those with ids
-- below this are left, and NULL says that none is. Until then it is found by the words that it had.
ALTER TABLE collection_stat ADD COLUMN unlexed_below bigint;
INSERT INTO collection_stat AS s (collection_id, chunk_count, lexeme_count, refreshed_at, duration_ms, unlexed_below)
SELECT c.id, 0, 0, now(), 0, newest.id + 1
FROM collection AS c
CROSS JOIN LATERAL (SELECT k.id FROM chunk AS k WHERE k.collection_id = c.id ORDER BY k.id DESC LIMIT 1) AS newest
ON CONFLICT (collection_id) DO UPDATE SET unlexed_below = excluded.unlexed_below;
INSERT INTO job (stage, subject_id, collection_id)
SELECT 'index', s.collection_id, s.collection_id
FROM collection_stat AS s
WHERE s.unlexed_below IS NOT NULL
ORDER BY s.collection_id
ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING;

-- question_terms(integer, text) stays for query processes that were not yet started anew; a later migration drops it.
REVOKE ALL ON FUNCTION question_terms(integer[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION question_terms(integer[], text) TO askbox_reader;

RESET ROLE;
