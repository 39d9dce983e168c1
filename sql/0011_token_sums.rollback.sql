SET ROLE askbox_owner;
INSERT INTO token_usage (at, key_id, collection_id, model, prompt_tokens, completion_tokens, embedding_tokens)
SELECT day::timestamp AT TIME ZONE 'UTC', key_id, collection_id, model, prompt_tokens, completion_tokens, embedding_tokens
FROM token_sum;
DROP TABLE token_sum;
RESET ROLE;
