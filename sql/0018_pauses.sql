-- depends: 0017_backlog
-- Until when a model's server wants no call: what one embedder is told holds for all of them.
SET ROLE askbox_owner;

ALTER TABLE embedding_model ADD COLUMN paused_until timestamptz, ADD COLUMN pause_reason text
  CONSTRAINT pause_reason_is_short CHECK (char_length(pause_reason) <= 1000);
ALTER TABLE embedding_model ADD CONSTRAINT pause_has_a_reason CHECK ((paused_until IS NULL) = (pause_reason IS NULL));

RESET ROLE;
