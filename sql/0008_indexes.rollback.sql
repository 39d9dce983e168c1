SET ROLE askbox_owner;
ALTER FUNCTION lexical_hits(integer, text, bigint[], integer) ROWS 1000;
ALTER POLICY sees_its_scope ON chunk_vector USING (collection_id = ANY ((SELECT scope())::integer[]));
DROP TRIGGER deleted_collection_loses_its_indexes ON collection;
DROP FUNCTION request_index_removal();
DO $$
DECLARE
  index_name text;
BEGIN
  FOR index_name IN SELECT name FROM search_index LOOP
    EXECUTE format('DROP INDEX %I', index_name);
  END LOOP;
END $$;
DROP VIEW search_index;
ALTER TABLE collection_stat DROP COLUMN outgrown_at;
RESET ROLE;
