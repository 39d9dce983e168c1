-- depends: 0020_phrases
-- Phrases that do not run from a title into the text, and pauses that hold for the server that asked for them.
SET ROLE askbox_owner;

-- The chunks of a collection that hold a phrase, each read in its own language: its words in their forms, in this order. What a
-- chunk is read under, its text, its path and its names stand one behind the other in the index, in weights A, D, C and B, and all
-- words of a phrase must be of one weight, or "backup policy" would be held by what begins with "Policy" under the title "Nightly
-- backup". For 5,000 chunks that hold its words this takes 10 ms more; to divide their tsvectors by weight took 50. Where a language
-- leaves nothing of the phrase to look for, all chunks in it count, or none: "to be or not to be" demands nothing, and `-in` excludes
-- nothing. As the owner for the reason that lexical_hits has: behind row-level security the GIN index is not used. The scope is
-- checked first.
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
      SELECT string_agg(
        '(' || regexp_replace(wanted::text, '''((?:[^''\\]|''''|\\\\)*)''', '''\1'':' || part.class, 'g') || ')', ' | ')::tsquery
      INTO wanted
      FROM unnest('{A,B,C,D}'::text[]) AS part (class);
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

-- For query processes of before 0019_identifiers it was kept until now.
DROP FUNCTION question_terms(integer, text);

-- Whose pause it is: a fingerprint of the server's address and its key. Null, from an embedder of before, holds for all of them.
ALTER TABLE embedding_model ADD COLUMN pause_server text CONSTRAINT pause_server_is_short CHECK (char_length(pause_server) <= 64);

RESET ROLE;
