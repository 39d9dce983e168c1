-- What an evaluation asks its own database.

-- name: are_statistics_fresh
-- Whether the term statistics of every collection were counted after its last publication.
-- Rows: 1.
SELECT NOT EXISTS (
  SELECT FROM document_version AS v
  LEFT JOIN collection_stat AS s ON s.collection_id = v.collection_id
  WHERE v.ready_at IS NOT NULL AND (s.refreshed_at IS NULL OR v.ready_at > s.refreshed_at)
)
