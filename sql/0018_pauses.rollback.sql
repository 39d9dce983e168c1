SET ROLE askbox_owner;
ALTER TABLE embedding_model DROP CONSTRAINT pause_has_a_reason;
ALTER TABLE embedding_model DROP COLUMN pause_reason, DROP COLUMN paused_until;
RESET ROLE;
