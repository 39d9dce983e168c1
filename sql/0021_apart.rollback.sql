SET ROLE askbox_owner;
ALTER TABLE embedding_model DROP COLUMN pause_server;

-- The question's lexemes in every configuration that the collection holds, with their document frequencies.
-- Unknown lexemes count 0: a typing error must not push a real word out of the budget.
CREATE FUNCTION question_terms(asked_collection_id integer, question text)
RETURNS TABLE (lexeme text, chunk_count integer)
LANGUAGE sql STABLE SET search_path = askbox, pg_temp AS $$
  SELECT word.lexeme, coalesce(s.chunk_count, 0)
  FROM (
    SELECT DISTINCT w.lexeme
    FROM collection_language AS l, unnest(to_tsvector(l.language, question)) AS w
    WHERE l.collection_id = asked_collection_id
  ) AS word
  LEFT JOIN term_stat AS s ON s.collection_id = asked_collection_id AND s.lexeme = word.lexeme
$$;
REVOKE ALL ON FUNCTION question_terms(integer, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION question_terms(integer, text) TO askbox_reader;

-- The chunks of a collection that hold a phrase, each read in its own language: its words in their forms, in this order. Where a
-- language leaves nothing of it to look for, all chunks in it count, or none: "to be or not to be" demands nothing, and `-in`
-- excludes nothing. As the owner for the reason that lexical_hits has: behind row-level security the GIN index is not used. The
-- scope is checked first.
CREATE OR REPLACE FUNCTION chunks_holding(asked_collection_id integer, phrase text, all_where_nothing_is_left boolean)
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

RESET ROLE;
