-- What models used, by whom, and what a document's text has.

-- name: sum_tokens_by_key
-- Tokens used with key $1, or with each key and without any, most first. A revoked key is told of as well.
-- $1 key_id int, NULL = no key · $2 is_everybody boolean · $3 limit int
-- Rows: 0..$3. `name` is NULL for what no key used: questions on an open machine, and the texts of documents.
SELECT k.name, sum(u.prompt_tokens)::bigint AS prompt, sum(u.completion_tokens)::bigint AS completion,
  sum(u.embedding_tokens)::bigint AS embedding
FROM (
  SELECT key_id, prompt_tokens, completion_tokens, embedding_tokens FROM token_usage
  UNION ALL
  SELECT key_id, prompt_tokens, completion_tokens, embedding_tokens FROM token_sum
) AS u
LEFT JOIN api_key AS k ON k.id = u.key_id
WHERE $2::boolean OR u.key_id = $1::integer
GROUP BY k.name
ORDER BY sum(u.prompt_tokens + u.completion_tokens + u.embedding_tokens) DESC, k.name
LIMIT $3::integer

-- name: count_document_tokens
-- Tokens of the live versions of documents $2, as their embedding model reads them.
-- $1 scope int[] · $2 document_ids bigint[]
-- Rows: one per document of which a version is live.
SELECT d.id AS document_id, v.token_count AS tokens
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.id = d.live_version_id
WHERE d.collection_id = ANY ($1::integer[]) AND d.id = ANY ($2::bigint[])
