-- What workers have counted, summed over all of them and kept.

-- name: add_to_totals
-- Add to the totals what a process has counted since it last did.
-- $1 names text[] · $2 labels jsonb[] · $3 parts text[] · $4 values double precision[]
-- Rows: none. In one order, since two workers that add the same rows in different orders deadlock.
INSERT INTO metric_total AS t (name, labels, part, value)
SELECT name, labels, part, value
FROM unnest($1::text[], $2::jsonb[], $3::text[], $4::double precision[]) AS new (name, labels, part, value)
ORDER BY name, labels, part
ON CONFLICT (name, labels, part) DO UPDATE SET value = t.value + excluded.value
