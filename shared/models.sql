-- The embedding model that a database is filled with.

-- name: find_model
-- What is registered under name $1, and the other models that collections were filled with.
-- $1 name text
-- Rows: 1. Its id is null as long as nobody has registered it.
SELECT m.id, m.dimension, coalesce(others.names, '{}') AS others
FROM (
  SELECT array_agg(DISTINCT o.name ORDER BY o.name) AS names
  FROM collection AS c
  JOIN embedding_model AS o ON o.id = c.embedding_model_id
  WHERE o.name <> $1::text
) AS others
LEFT JOIN embedding_model AS m ON m.name = $1

-- name: find_pause
-- For how long server $2 of model $1 wants no call, and why. A pause of which nobody knows whose it is holds for every server.
-- $1 name text · $2 server text
-- Rows: 0..1.
SELECT extract(epoch FROM paused_until - clock_timestamp())::float8 AS seconds, pause_reason
FROM embedding_model
WHERE name = $1 AND paused_until > clock_timestamp() AND (pause_server IS NULL OR pause_server = $2::text)

-- name: extend_pause
-- Note that server $4 of model $1 wants no call for $2 because of $3; a shorter pause shortens no longer one of the same server.
-- $1 name text · $2 pause interval · $3 reason text · $4 server text
-- Rows: none.
UPDATE embedding_model SET paused_until = clock_timestamp() + $2::interval, pause_reason = $3, pause_server = $4::text
WHERE name = $1
  AND (paused_until IS NULL OR pause_server <> $4::text OR paused_until < clock_timestamp() + $2::interval)
