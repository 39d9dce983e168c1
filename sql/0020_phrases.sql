-- depends: 0019_identifiers
-- What a question says of its own words: "this phrase" must stand in a chunk, -this must not.
SET ROLE askbox_owner;

-- The chunks of a collection that hold a phrase, each read in its own language: its words in their forms, in this order. Where a
-- language leaves nothing of it to look for, all chunks in it count, or none: "to be or not to be" demands nothing, and `-in`
-- excludes nothing. As the owner for the reason that lexical_hits has: behind row-level security the GIN index is not used. The
-- scope is checked first.
CREATE FUNCTION chunks_holding(asked_collection_id integer, phrase text, all_where_nothing_is_left boolean)
RETURNS TABLE (chunk_id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = askbox, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  spoken regconfig;
  wanted tsquery;
BEGIN
  IF asked_collection_id IS NULL OR NOT asked_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;
  FOR spoken IN SELECT l.language FROM collection_language AS l WHERE l.collection_id = asked_collection_id LOOP
    wanted := phraseto_tsquery(spoken, phrase);
    IF numnode(wanted) > 0 THEN
      RETURN QUERY
      SELECT c.id FROM chunk AS c
      WHERE c.collection_id = asked_collection_id AND c.language = spoken AND c.tsv @@ wanted;
    ELSIF all_where_nothing_is_left THEN
      RETURN QUERY
      SELECT c.id FROM chunk AS c
      WHERE c.collection_id = asked_collection_id AND c.language = spoken;
    END IF;
  END LOOP;
END $$;

-- The best `chunk_limit` chunks by ts_rank of some documents: those whose words the lexical arm would score. Taken from the best
-- of the whole collection they would be few: of a word that 5,000 chunks hold a filter for 5 % saw 50 of 1,000.
CREATE FUNCTION chunks_sharing(
  asked_collection_id integer, question text, among_document_ids bigint[], chunk_limit integer
)
RETURNS TABLE (chunk_id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = askbox, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  budget double precision;
  wanted tsquery;
BEGIN
  IF asked_collection_id IS NULL OR NOT asked_collection_id = ANY (scope()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'the collection is not in the scope of this session';
  END IF;
  budget := greatest(least(0.11 * coalesce(
    (SELECT s.chunk_count FROM collection_stat AS s WHERE s.collection_id = asked_collection_id), 0), 5000), 500);
  WITH term AS MATERIALIZED (
    SELECT t.lexeme, coalesce(s.chunk_count, 0) AS chunk_count
    FROM question_terms(scope(), question) AS t
    LEFT JOIN term_stat AS s ON s.collection_id = asked_collection_id AND s.lexeme = t.lexeme
    ORDER BY coalesce(s.chunk_count, 0) = 0, s.chunk_count, t.lexeme
    LIMIT 200
  ), budgeted AS (
    SELECT t.lexeme, sum(t.chunk_count) OVER ascending = t.chunk_count OR sum(t.chunk_count) OVER ascending <= budget AS is_wanted
    FROM term AS t
    WINDOW ascending AS (ORDER BY t.chunk_count, t.lexeme)
  )
  SELECT string_agg('''' || replace(replace(b.lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
  INTO wanted
  FROM budgeted AS b WHERE b.is_wanted;
  RETURN QUERY
  SELECT c.id FROM chunk AS c
  WHERE wanted IS NOT NULL AND c.collection_id = asked_collection_id AND c.tsv @@ wanted
    AND c.document_id = ANY (among_document_ids)
  ORDER BY ts_rank('{1, 1, 1, 1}', c.tsv, wanted, 1) DESC, c.id
  LIMIT chunk_limit;
END $$;

REVOKE ALL ON FUNCTION chunks_holding(integer, text, boolean), chunks_sharing(integer, text, bigint[], integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION chunks_holding(integer, text, boolean), chunks_sharing(integer, text, bigint[], integer) TO askbox_reader;

RESET ROLE;
