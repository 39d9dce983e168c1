-- depends: 0010_metrics
-- What models used, by day: entries older than a day end here, so that what is summed for `/ingest/stats` stays small.
SET ROLE askbox_owner;

CREATE TABLE token_sum (
  day date NOT NULL,
  key_id integer,
  collection_id integer,
  model text NOT NULL,
  prompt_tokens bigint NOT NULL CONSTRAINT prompt_tokens_are_a_count CHECK (prompt_tokens >= 0),
  completion_tokens bigint NOT NULL CONSTRAINT completion_tokens_are_a_count CHECK (completion_tokens >= 0),
  embedding_tokens bigint NOT NULL CONSTRAINT embedding_tokens_are_a_count CHECK (embedding_tokens >= 0),
  CONSTRAINT one_sum_per_day UNIQUE NULLS NOT DISTINCT (day, key_id, collection_id, model)
);
GRANT SELECT, INSERT, UPDATE ON token_sum TO askbox_worker;
GRANT SELECT ON token_sum TO askbox_reader;

RESET ROLE;
