-- What clients of OpenAI's API want to know of a model, which is a collection here.

-- name: list_ages
-- When collections $1 were made. Units: seconds since 1970.
-- $1 scope int[]
-- Rows: 0..n, by name.
SELECT name, extract(epoch FROM created_at)::bigint AS created
FROM collection
WHERE id = ANY ($1::integer[])
ORDER BY name
