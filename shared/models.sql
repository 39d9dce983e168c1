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
