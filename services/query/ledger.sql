-- What the query process writes down of its models' use.

-- name: insert_token_usage
-- Note what models read and wrote for questions, one entry per place in the arrays.
-- $1 key_ids int[] · $2 collection_ids int[] · $3 models text[] · $4 prompt_tokens bigint[] · $5 completion_tokens bigint[]
-- · $6 embedding_tokens bigint[]
-- Rows: none.
INSERT INTO token_usage (key_id, collection_id, model, prompt_tokens, completion_tokens, embedding_tokens)
SELECT u.key_id, u.collection_id, u.model, u.prompt_tokens, u.completion_tokens, u.embedding_tokens
FROM unnest($1::integer[], $2::integer[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
  AS u (key_id, collection_id, model, prompt_tokens, completion_tokens, embedding_tokens)
