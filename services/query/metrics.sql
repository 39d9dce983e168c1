-- What a scrape shows that no process knows alone.

-- name: list_figures
-- What waits, what there is and who lives in the scope, now; and what workers have counted since ever.
-- $1 scope int[] · $2 silence interval
-- Rows: 0..n. `part` is that of `metric_total`; what is true now has none. Each large table is read once: 66 ms on two cores
-- with 100,000 documents and 100,000 jobs.
WITH work AS MATERIALIZED (
  SELECT stage, CASE WHEN lease_id IS NOT NULL THEN 'leased' WHEN run_at > now() THEN 'waiting' ELSE 'ready' END AS state,
    count(*) AS jobs, min(created_at) AS oldest_at
  FROM job
  WHERE collection_id = ANY ($1::integer[])
  GROUP BY 1, 2
), documents AS MATERIALIZED (
  SELECT newest.state, count(*) AS documents, sum(newest.truncated_count) AS truncated
  FROM (
    SELECT DISTINCT ON (collection_id, document_id) state, truncated_count
    FROM document_version
    WHERE collection_id = ANY ($1::integer[])
    ORDER BY collection_id, document_id, id DESC
  ) AS newest
  GROUP BY newest.state
)
SELECT 'askbox.queue.jobs' AS name, jsonb_build_object('stage', stage, 'state', state) AS labels, NULL AS part,
  jobs::double precision AS value
FROM work
UNION ALL
SELECT 'askbox.queue.oldest_job.age', jsonb_build_object('stage', stage), NULL,
  extract(epoch FROM now() - min(oldest_at))::double precision
FROM work
GROUP BY stage
UNION ALL
SELECT 'askbox.dead_letters', jsonb_build_object('stage', stage), NULL, count(*)::double precision
FROM dead_letter
WHERE collection_id = ANY ($1::integer[])
GROUP BY stage
UNION ALL
SELECT 'askbox.documents', jsonb_build_object('state', state), NULL, documents::double precision
FROM documents
UNION ALL
SELECT 'askbox.truncated_inputs', '{}', NULL, coalesce(sum(truncated), 0)::double precision
FROM documents
UNION ALL
SELECT 'askbox.workers', jsonb_build_object('kind', kind), NULL, count(*)::double precision
FROM worker
WHERE last_seen_at > now() - $2::interval
GROUP BY kind
UNION ALL
SELECT 'askbox.inbox.waiting_files', '{}', NULL, coalesce(max(waiting_file_count), 0)::double precision
FROM worker
WHERE last_seen_at > now() - $2::interval
UNION ALL
SELECT name, labels, part, value
FROM metric_total
