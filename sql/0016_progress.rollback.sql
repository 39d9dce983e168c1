SET ROLE askbox_owner;
CREATE FUNCTION count_embedded(in_collection_id integer, of_version_id bigint) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
  SELECT count(*)::integer
  FROM staged_chunk AS s
  JOIN collection AS k ON k.id = s.collection_id
  WHERE s.collection_id = in_collection_id
    AND in_collection_id = ANY (scope())
    AND s.version_id = of_version_id
    AND EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = k.embedding_model_id AND e.text_hash = s.text_hash)
$$;
REVOKE ALL ON FUNCTION count_embedded(integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION count_embedded(integer, bigint) TO askbox_reader;
DROP FUNCTION version_progress(bigint[], integer);
ALTER TABLE document_version DROP COLUMN page_count, DROP COLUMN character_count;
RESET ROLE;
