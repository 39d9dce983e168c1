-- depends: 0003_search
-- The queue: narrow rows, deleted on success.
SET ROLE askbox_owner;

CREATE TABLE worker (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CONSTRAINT worker_kind_is_known CHECK (kind IN ('ingester', 'embedder', 'query')),
  host text NOT NULL,
  pid integer NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  last_seen_at timestamptz NOT NULL DEFAULT now(),
  is_listening boolean NOT NULL DEFAULT false,
  note text
);

-- One row per claimed batch. Its id comes from a sequence and is never used again: it is the fencing token.
-- Heartbeats touch only unindexed columns of this one row, so they stay HOT.
CREATE TABLE lease (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  worker_id bigint NOT NULL,
  expires_at timestamptz NOT NULL,
  deadline_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- subject_id: ingest → version, embed → model, scan → none (request), index → collection.
CREATE TABLE job (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stage text NOT NULL,
  subject_id bigint NOT NULL,
  text_hash bytea,
  collection_id integer NOT NULL,
  rank integer NOT NULL DEFAULT 0,
  cost bigint NOT NULL DEFAULT 0,
  run_at timestamptz NOT NULL DEFAULT now(),
  attempt smallint NOT NULL DEFAULT 0,
  max_attempts smallint NOT NULL DEFAULT 5,
  lease_id bigint REFERENCES lease,
  traceparent text,
  tracestate text,
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT stage_is_known CHECK (stage IN ('ingest', 'scan', 'embed', 'index')),
  CONSTRAINT embed_job_names_a_text CHECK ((stage = 'embed') = (text_hash IS NOT NULL)),
  CONSTRAINT attempts_are_bounded CHECK (attempt BETWEEN 0 AND max_attempts),
  CONSTRAINT one_job_per_subject UNIQUE NULLS NOT DISTINCT (stage, subject_id, text_hash)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000);
CREATE INDEX job_ready ON job (stage, rank, id) WHERE lease_id IS NULL;
CREATE INDEX job_ready_fifo ON job (stage, id) WHERE lease_id IS NULL;
CREATE INDEX job_leased ON job (lease_id) WHERE lease_id IS NOT NULL;
-- A job that was claimed before and came back may be what killed its worker: it is claimed apart from the others.
CREATE INDEX job_suspect ON job (stage, id) WHERE lease_id IS NULL AND attempt > 0;

CREATE TABLE dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stage text NOT NULL,
  subject_id bigint NOT NULL,
  text_hash bytea,
  collection_id integer NOT NULL,
  attempt smallint NOT NULL,
  error_code text NOT NULL,
  error text NOT NULL CONSTRAINT dead_letter_has_a_reason CHECK (btrim(error) <> ''),
  traceparent text,
  tracestate text,
  created_at timestamptz NOT NULL,
  died_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT one_dead_letter_per_subject UNIQUE NULLS NOT DISTINCT (stage, subject_id, text_hash)
);

-- A hint for sleeping workers: one channel per stage, no payload, once per statement, only for jobs that can run now.
-- A commit that notifies takes a cluster-wide lock, so nothing else notifies.
CREATE FUNCTION wake_workers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('askbox_' || woken.stage, '')
  FROM (SELECT DISTINCT stage FROM new_job WHERE run_at <= now()) AS woken;
  RETURN NULL;
END $$;

CREATE TRIGGER job_wakes_workers AFTER INSERT ON job
  REFERENCING NEW TABLE AS new_job FOR EACH STATEMENT EXECUTE FUNCTION wake_workers();

RESET ROLE;
