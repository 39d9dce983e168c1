-- The health check of a container.

-- name: is_worker_fresh
-- Whether a process of kind $2 on host $1 was seen within $3.
-- $1 host text · $2 kind text · $3 silence interval
-- Rows: 1.
SELECT EXISTS (
  SELECT
  FROM worker
  WHERE host = $1 AND kind = $2 AND last_seen_at > now() - $3::interval
) AS is_fresh
