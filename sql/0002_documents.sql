-- depends: 0001_roles
-- What was dropped: collections, documents, their versions and the original bytes.
SET ROLE askbox_owner;

CREATE TABLE embedding_model (
  id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL CONSTRAINT model_has_one_row UNIQUE,
  dimension integer NOT NULL CONSTRAINT dimension_fits_halfvec CHECK (dimension BETWEEN 1 AND 4000),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE collection (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL CONSTRAINT collection_name_is_unique UNIQUE,
  embedding_model_id smallint NOT NULL REFERENCES embedding_model,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT collection_name_is_a_folder_name
    CHECK (length(name) BETWEEN 1 AND 200 AND name !~ '[/[:cntrl:]]' AND name !~ '^[.\s]' AND name !~ '\s$')
);

-- The sum is known only when the last part has arrived, so a blob is named by an id and complete when it has a sum.
CREATE TABLE blob (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sha256 bytea CONSTRAINT content_is_stored_once UNIQUE,
  file_bytes bigint,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT sum_is_a_sha256 CHECK (octet_length(sha256) = 32),
  CONSTRAINT complete_blob_has_sum_and_size CHECK ((sha256 IS NULL) = (file_bytes IS NULL))
);
CREATE INDEX blob_created ON blob (created_at);

CREATE TABLE blob_part (
  blob_id bigint NOT NULL REFERENCES blob ON DELETE CASCADE,
  ordinal integer NOT NULL,
  bytes bytea NOT NULL,
  PRIMARY KEY (blob_id, ordinal),
  CONSTRAINT part_fits_in_memory CHECK (octet_length(bytes) BETWEEN 1 AND 4194304)
);
-- Most originals are compressed already; trying again costs a core.
ALTER TABLE blob_part ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE document (
  collection_id integer NOT NULL REFERENCES collection ON DELETE CASCADE,
  id bigint GENERATED ALWAYS AS IDENTITY,
  source_uri text NOT NULL CONSTRAINT source_uri_has_a_scheme CHECK (source_uri ~ '^(inbox|upload|folder):.'),
  live_version_id bigint,
  title text,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (collection_id, id),
  CONSTRAINT one_document_per_source UNIQUE (collection_id, source_uri)
);
CREATE INDEX document_id ON document (id);

CREATE TABLE document_version (
  collection_id integer NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  document_id bigint NOT NULL,
  blob_id bigint NOT NULL REFERENCES blob,
  media_type text,
  state text NOT NULL DEFAULT 'queued',
  error_code text,
  error text,
  burst_place integer NOT NULL DEFAULT 0 CONSTRAINT burst_place_is_a_count CHECK (burst_place >= 0),
  title text,
  metadata jsonb NOT NULL DEFAULT '{}',
  chunk_count integer,
  token_count bigint,
  replaced_character_count integer,
  truncated_count integer NOT NULL DEFAULT 0,
  traceparent text,
  tracestate text,
  detected_at timestamptz NOT NULL DEFAULT now(),
  queued_at timestamptz NOT NULL DEFAULT now(),
  parsing_at timestamptz,
  embedding_at timestamptz,
  ready_at timestamptz,
  ended_at timestamptz,
  PRIMARY KEY (collection_id, id),
  CONSTRAINT version_belongs_to_its_document UNIQUE (collection_id, document_id, id),
  FOREIGN KEY (collection_id, document_id) REFERENCES document ON DELETE CASCADE,
  CONSTRAINT state_is_legal CHECK (state IN ('queued', 'parsing', 'embedding', 'ready', 'failed', 'superseded')),
  CONSTRAINT failed_version_has_a_reason CHECK ((state = 'failed') <= (btrim(coalesce(error, '')) <> '' AND error_code IS NOT NULL)),
  CONSTRAINT staged_version_has_counts CHECK (state NOT IN ('embedding', 'ready') OR (chunk_count IS NOT NULL AND token_count IS NOT NULL)),
  CONSTRAINT ready_version_has_a_time CHECK ((state = 'ready') <= (ready_at IS NOT NULL)),
  CONSTRAINT ended_iff_not_in_work CHECK ((ended_at IS NULL) = (state IN ('queued', 'parsing', 'embedding')))
);
CREATE INDEX version_id ON document_version (id);
CREATE INDEX version_blob ON document_version (blob_id);
CREATE INDEX version_in_work ON document_version (state, id) WHERE state IN ('queued', 'parsing', 'embedding');
CREATE INDEX version_ready ON document_version (collection_id, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX version_ended ON document_version (ended_at) WHERE state IN ('superseded', 'failed');

-- live_version_id always names a version of the same document.
ALTER TABLE document ADD CONSTRAINT live_version_is_own
  FOREIGN KEY (collection_id, id, live_version_id) REFERENCES document_version (collection_id, document_id, id)
  DEFERRABLE INITIALLY DEFERRED;

CREATE TABLE tombstone (
  collection_id integer NOT NULL REFERENCES collection ON DELETE CASCADE,
  source_uri text NOT NULL,
  sha256 bytea NOT NULL CONSTRAINT tombstone_names_bytes CHECK (octet_length(sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (collection_id, source_uri, sha256)
);

-- What the inbox holds and is not taken, with the reason.
CREATE TABLE skipped_file (
  source_uri text PRIMARY KEY,
  collection_name text NOT NULL,
  reason text NOT NULL CONSTRAINT skipped_file_has_a_reason CHECK (btrim(reason) <> ''),
  seen_at timestamptz NOT NULL DEFAULT now()
);

-- Which folder this database was filled from: the same mark lies in the folder.
CREATE TABLE inbox_mark (
  is_the_one boolean PRIMARY KEY DEFAULT true CONSTRAINT at_most_one_inbox CHECK (is_the_one),
  mark uuid NOT NULL
);

-- A deletion that waits for a person: many files vanished at once, or the folder is another one.
CREATE TABLE inbox_pause (
  kind text PRIMARY KEY CONSTRAINT pause_kind_is_known CHECK (kind IN ('vanished', 'another_folder')),
  reason text NOT NULL,
  missing_count integer NOT NULL,
  paused_at timestamptz NOT NULL DEFAULT now(),
  confirmed_at timestamptz
);

CREATE TABLE ingest_request (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  collection_id integer NOT NULL REFERENCES collection ON DELETE CASCADE,
  directory text,
  error text,
  scanned_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ingest_request_document (
  request_id uuid NOT NULL REFERENCES ingest_request ON DELETE CASCADE,
  collection_id integer NOT NULL,
  document_id bigint NOT NULL,
  version_id bigint NOT NULL,
  file_path text NOT NULL,
  PRIMARY KEY (request_id, document_id, version_id)
);

-- The story of a document. No foreign key: it outlives what it tells of, until it is pruned by age.
CREATE TABLE document_event (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  collection_id integer NOT NULL,
  document_id bigint NOT NULL,
  version_id bigint NOT NULL,
  stage text NOT NULL,
  outcome text NOT NULL,
  attempt smallint,
  worker_id bigint,
  duration_ms double precision,
  detail jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX event_of_document ON document_event (document_id, id);
CREATE INDEX event_by_age ON document_event (at);

RESET ROLE;
