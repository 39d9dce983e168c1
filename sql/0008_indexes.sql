-- depends: 0006_lexical
-- Indexes of the collections that have outgrown the exact scan. `index` jobs build and drop them; the catalogue is their
-- only register, and their names say whose they are.
SET ROLE askbox_owner;

-- Since when the collection has been too large to be ranked exactly; NULL while it is not.
ALTER TABLE collection_stat ADD COLUMN outgrown_at timestamptz;

-- The partial indexes of single collections: over vectors of a model, or over text, where the model is NULL.
CREATE VIEW search_index AS
SELECT c.relname AS name, part.number[1]::bigint AS collection_id, part.number[2]::bigint AS model_id,
  i.indisvalid AND i.indisready AS is_valid
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
CROSS JOIN LATERAL regexp_match(c.relname, '^(?:chunk_tsv_gin|chunk_vector_hnsw)_(\d{1,18})(?:_(\d{1,18}))?$') AS part (number)
WHERE i.indrelid IN ('chunk'::regclass, 'chunk_vector'::regclass) AND part.number IS NOT NULL;
GRANT SELECT ON search_index TO askbox_worker;

-- Whoever deletes a collection leaves a job that drops its indexes. DO UPDATE holds a job that runs just now until the
-- deletion is committed, so that its completion sees that the collection is gone.
CREATE FUNCTION request_index_removal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = askbox, pg_temp AS $$
BEGIN
  INSERT INTO job AS j (stage, subject_id, collection_id)
  SELECT 'index', g.id, g.id
  FROM gone AS g
  WHERE EXISTS (SELECT 1 FROM search_index AS i WHERE i.collection_id = g.id)
  ORDER BY g.id
  ON CONFLICT ON CONSTRAINT one_job_per_subject DO UPDATE SET run_at = least(j.run_at, excluded.run_at);
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION request_index_removal() FROM PUBLIC;
CREATE TRIGGER deleted_collection_loses_its_indexes AFTER DELETE ON collection
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION request_index_removal();

-- The planner takes the scope for ten collections of all, so beside 300 others it expected 2,000 of 60,000 rows and beside
-- 2,000 it scanned all of them (12 ms) instead of walking the index (1 ms). Inside coalesce it assumes a half.
ALTER POLICY sees_its_scope ON chunk_vector USING (coalesce(collection_id = ANY ((SELECT scope())::integer[]), false));

-- It returns the hits and what was asked for beside them: two arms of 100, not 1,000.
ALTER FUNCTION lexical_hits(integer, text, bigint[], integer) ROWS 200;

RESET ROLE;
