-- depends: 0004_queue
-- Who may see what: keys and grants, the grants of the three roles, forced row-level security.
SET ROLE askbox_owner;

CREATE TABLE api_key (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL CONSTRAINT key_name_is_unique UNIQUE,
  sha256 bytea NOT NULL CONSTRAINT key_is_stored_once UNIQUE CONSTRAINT key_is_hashed CHECK (octet_length(sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);

-- collection_id NULL: every collection, those to come included.
CREATE TABLE key_grant (
  key_id integer NOT NULL REFERENCES api_key ON DELETE CASCADE,
  collection_id integer REFERENCES collection ON DELETE CASCADE,
  role text NOT NULL CONSTRAINT grant_role_is_known CHECK (role IN ('read', 'write', 'admin')),
  CONSTRAINT one_grant_per_collection UNIQUE NULLS NOT DISTINCT (key_id, collection_id)
);

CREATE TABLE token_usage (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  key_id integer,
  collection_id integer,
  document_id bigint,
  model text NOT NULL,
  prompt_tokens bigint NOT NULL DEFAULT 0,
  completion_tokens bigint NOT NULL DEFAULT 0,
  embedding_tokens bigint NOT NULL DEFAULT 0
);
CREATE INDEX token_usage_by_age ON token_usage (at);

-- The collections that this session may see. Unset or empty means none.
CREATE FUNCTION scope() RETURNS integer[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT coalesce(nullif(current_setting('askbox.scope', true), ''), '{}')::integer[]
$$;

-- A constant policy is folded away when a statement is planned; only the reader pays for its walls.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['document', 'document_version', 'staged_chunk', 'chunk', 'chunk_position', 'chunk_vector',
    'term_stat', 'collection_stat', 'collection_language', 'tombstone', 'ingest_request', 'ingest_request_document',
    'document_event', 'job', 'dead_letter'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY works_on_every_collection ON %I TO askbox_owner, askbox_worker USING (true)', name);
    EXECUTE format('CREATE POLICY sees_its_scope ON %I TO askbox_reader USING (collection_id = ANY ((SELECT scope())::integer[]))', name);
  END LOOP;
END $$;

ALTER TABLE collection ENABLE ROW LEVEL SECURITY;
ALTER TABLE collection FORCE ROW LEVEL SECURITY;
CREATE POLICY works_on_every_collection ON collection TO askbox_owner, askbox_worker USING (true);
-- Which collections exist is looked up before the scope is known, so ids and names are readable; nothing else hangs on them.
CREATE POLICY names_are_readable ON collection FOR SELECT TO askbox_reader USING (true);

ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
ALTER TABLE blob FORCE ROW LEVEL SECURITY;
CREATE POLICY works_on_every_blob ON blob TO askbox_owner, askbox_worker USING (true);
CREATE POLICY sees_blobs_of_its_documents ON blob FOR SELECT TO askbox_reader
  USING (EXISTS (SELECT 1 FROM document_version v WHERE v.blob_id = blob.id AND v.collection_id = ANY ((SELECT scope())::integer[])));
ALTER TABLE blob_part ENABLE ROW LEVEL SECURITY;
ALTER TABLE blob_part FORCE ROW LEVEL SECURITY;
CREATE POLICY works_on_every_part ON blob_part TO askbox_owner, askbox_worker USING (true);
CREATE POLICY sees_parts_of_its_documents ON blob_part FOR SELECT TO askbox_reader
  USING (EXISTS (SELECT 1 FROM document_version v WHERE v.blob_id = blob_part.blob_id AND v.collection_id = ANY ((SELECT scope())::integer[])));

DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables
    WHERE schemaname = 'askbox' AND tableowner = 'askbox_owner' AND tablename NOT IN ('api_key', 'key_grant') LOOP
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO askbox_worker', name);
  END LOOP;
END $$;
-- Publication draws the ids of new chunks itself.
GRANT USAGE ON SEQUENCE chunk_id_seq TO askbox_worker;
GRANT SELECT ON embedding_model, collection, document, document_version, chunk, chunk_position, chunk_vector, blob, blob_part,
  term_stat, collection_stat, collection_language, tombstone, skipped_file, inbox_pause, ingest_request, ingest_request_document,
  document_event, job, lease, dead_letter, worker, api_key, key_grant TO askbox_reader;
-- What the query process changes: a deletion and its tombstone, its own worker row, and what an answer used.
GRANT DELETE ON document TO askbox_reader;
GRANT INSERT ON tombstone, token_usage TO askbox_reader;
GRANT INSERT, UPDATE, DELETE ON worker TO askbox_reader;
GRANT UPDATE (confirmed_at) ON inbox_pause TO askbox_reader;

RESET ROLE;
