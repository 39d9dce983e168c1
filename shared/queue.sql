-- The queue: one table of narrow rows for every stage. Time is the database's.
-- `lease.id` is the fencing token: every write after a claim carries it, and 0 rows mean that the lease is lost.

-- name: claim_jobs
-- Lease up to $2 runnable jobs of stage $1 to worker $3.
-- $1 stage text · $2 batch_size int · $3 worker_id bigint · $4 lease interval · $5 deadline interval
-- · $6 subject_id bigint, NULL = any · $7 cost_max bigint · $8 is_fifo boolean · $9 is_suspect boolean, NULL = any
-- Rows: 0..$2. The CTE is materialized: as a plain sub-select under a bad plan LIMIT 5 took 300 of 300 rows.
-- The attempt is counted here, so that a job which kills its worker still ends.
WITH candidate AS MATERIALIZED (
  SELECT id
  FROM job
  WHERE stage = $1::text
    AND lease_id IS NULL
    AND run_at <= now()
    AND ($6::bigint IS NULL OR subject_id = $6)
    AND cost <= $7::bigint
    AND ($9::boolean IS NULL OR (attempt > 0) = $9)
  ORDER BY CASE WHEN $8::boolean THEN 0 ELSE rank END, id
  LIMIT $2::integer
  FOR UPDATE SKIP LOCKED
), new_lease AS (
  INSERT INTO lease (worker_id, expires_at, deadline_at)
  SELECT $3::bigint, now() + $4::interval, now() + $5::interval
  WHERE EXISTS (SELECT 1 FROM candidate)
  RETURNING id
)
UPDATE job
SET lease_id = new_lease.id, attempt = attempt + 1
FROM candidate, new_lease
WHERE job.id = candidate.id
RETURNING job.id, job.lease_id, job.stage, job.subject_id, job.text_hash, job.collection_id, job.attempt, job.max_attempts,
  job.traceparent, job.tracestate

-- name: next_run_in
-- How long until a job of stage $1 that waits for its time can run.
-- $1 stage text
-- Rows: 1, NULL when none waits.
SELECT extract(epoch FROM min(run_at) - now())::double precision AS seconds
FROM job
WHERE stage = $1::text AND lease_id IS NULL AND run_at > now()

-- name: extend_lease
-- Push the end of lease $1 to $2 from now, but never past its deadline.
-- $1 lease_id bigint · $2 lease interval
-- Rows: 0 = lost.
UPDATE lease
SET expires_at = least(now() + $2::interval, deadline_at)
WHERE id = $1::bigint AND expires_at > now() AND deadline_at > now()
RETURNING id

-- name: hold_lease
-- Lock lease $1 until the end of this transaction, so that no sweep takes its jobs meanwhile.
-- $1 lease_id bigint
-- Rows: 0 = lost.
SELECT id
FROM lease
WHERE id = $1::bigint
FOR UPDATE

-- name: delete_jobs
-- Remove those of jobs $2 that lease $1 still owns.
-- $1 lease_id bigint · $2 job_ids bigint[]
-- Rows: 0..n.
DELETE FROM job
WHERE lease_id = $1::bigint AND id = ANY ($2::bigint[])
RETURNING id

-- name: drop_empty_lease
-- Remove lease $1 when it owns no job any more.
-- $1 lease_id bigint
-- Rows: 0..1.
DELETE FROM lease
WHERE id = $1::bigint AND NOT EXISTS (SELECT 1 FROM job WHERE lease_id = $1)
RETURNING id

-- name: retry_jobs
-- Give jobs $2 of lease $1 back for a later attempt, unless they have had their last.
-- $1 lease_id bigint · $2 job_ids bigint[] · $3 error text
-- Rows: 0..n. Waits 2^attempt seconds, at most 300, less up to half of it, so that retries do not march in step.
UPDATE job
SET lease_id = NULL,
    run_at = now() + least(300, 2 ^ attempt) * (0.5 + random() / 2) * interval '1 second',
    last_error = $3::text
WHERE lease_id = $1::bigint AND id = ANY ($2::bigint[]) AND attempt < max_attempts
RETURNING id

-- name: bury_jobs
-- Make dead letters of jobs $2 of lease $1.
-- $1 lease_id bigint · $2 job_ids bigint[] · $3 error_code text · $4 error text
-- Rows: 0..n.
WITH dead AS (
  DELETE FROM job
  WHERE lease_id = $1::bigint AND id = ANY ($2::bigint[])
  RETURNING id, stage, subject_id, text_hash, collection_id, attempt, traceparent, tracestate, created_at
), letter AS (
  INSERT INTO dead_letter (stage, subject_id, text_hash, collection_id, attempt, error_code, error, traceparent, tracestate, created_at)
  SELECT stage, subject_id, text_hash, collection_id, attempt, $3::text, $4::text, traceparent, tracestate, created_at FROM dead
  ON CONFLICT ON CONSTRAINT one_dead_letter_per_subject
  DO UPDATE SET attempt = excluded.attempt, error_code = excluded.error_code, error = excluded.error, died_at = now()
)
SELECT id FROM dead

-- name: release_jobs
-- Give every job of lease $1 back as if it had not been claimed, to run after $2.
-- $1 lease_id bigint · $2 delay interval
-- Rows: 0..n.
UPDATE job
SET lease_id = NULL, attempt = attempt - 1, run_at = now() + $2::interval
WHERE lease_id = $1::bigint
RETURNING id, stage

-- name: wake
-- Wake the workers of stage $1.
-- $1 stage text
-- Rows: 1.
SELECT pg_notify('askbox_' || $1::text, '')

-- name: sweep_leases
-- Take the jobs of up to $1 expired leases back: ready again at once, or dead after their last attempt.
-- $1 lease_count_max int · $2 silence interval · $3 attempt_doubted int
-- Rows: one per job. SKIP LOCKED lets every worker sweep without a leader; a lease that is being completed is skipped.
-- A worker that was seen after its lease had expired lives: the database was away, or the worker stopped, and no job is to
-- blame; for a day the attempt is not counted. From attempt $3 on a sweep waits until its worker was seen or silent for $2.
-- Without this a storm of 400 faults in nine minutes buried 2 of 2,000 documents for attempts that the database had lost.
WITH expired AS MATERIALIZED (
  SELECT lease.id, lease.deadline_at > now() AND coalesce(worker.last_seen_at > lease.expires_at, false) AS is_worker_alive
  FROM lease
  LEFT JOIN worker ON worker.id = lease.worker_id
  WHERE (lease.expires_at <= now() OR lease.deadline_at <= now())
    AND (
      lease.deadline_at <= now()
      OR worker.id IS NULL
      OR worker.last_seen_at > lease.expires_at
      OR greatest(worker.last_seen_at, pg_postmaster_start_time()) < now() - $2::interval
      OR NOT EXISTS (SELECT 1 FROM job WHERE job.lease_id = lease.id AND job.attempt >= $3::integer)
    )
  ORDER BY lease.id
  LIMIT $1::integer
  FOR UPDATE OF lease SKIP LOCKED
), judged AS MATERIALIZED (
  SELECT job.id, job.lease_id, expired.is_worker_alive AND job.created_at > now() - interval '1 day' AS is_innocent
  FROM expired
  JOIN job ON job.lease_id = expired.id
), dead AS (
  DELETE FROM job
  USING judged
  WHERE job.id = judged.id AND job.lease_id = judged.lease_id AND job.attempt >= job.max_attempts AND NOT judged.is_innocent
  RETURNING job.stage, job.subject_id, job.text_hash, job.collection_id, job.attempt, job.traceparent, job.tracestate, job.created_at,
    coalesce(job.last_error, 'no error was reported') AS last_error
), letter AS (
  INSERT INTO dead_letter (stage, subject_id, text_hash, collection_id, attempt, error_code, error, traceparent, tracestate, created_at)
  SELECT stage, subject_id, text_hash, collection_id, attempt, 'worker_died',
    format('its worker died or stalled at every attempt (%s); before that: %s', attempt, last_error),
    traceparent, tracestate, created_at
  FROM dead
  ON CONFLICT ON CONSTRAINT one_dead_letter_per_subject
  DO UPDATE SET attempt = excluded.attempt, error_code = excluded.error_code, error = excluded.error, died_at = now()
), ready AS (
  UPDATE job
  SET lease_id = NULL,
      run_at = now(),
      attempt = CASE WHEN judged.is_innocent THEN greatest(job.attempt - 1, 0) ELSE job.attempt END,
      last_error = coalesce(last_error, 'its worker died or stalled')
  FROM judged
  WHERE job.id = judged.id AND job.lease_id = judged.lease_id AND (job.attempt < job.max_attempts OR judged.is_innocent)
  RETURNING job.stage, job.subject_id, job.text_hash
), swept AS (
  DELETE FROM lease USING expired WHERE lease.id = expired.id
)
SELECT stage, subject_id, text_hash, true AS is_dead FROM dead
UNION ALL
SELECT stage, subject_id, text_hash, false FROM ready

-- name: register_worker
-- Announce a process.
-- $1 kind text · $2 host text · $3 pid int
-- Rows: 1.
INSERT INTO worker (kind, host, pid)
VALUES ($1::text, $2::text, $3::integer)
RETURNING id

-- name: touch_worker
-- Say that worker $1 lives, whether its listener hears, whether what it notes keeps it from its work, and how many files wait for it.
-- $1 worker_id bigint · $2 is_listening boolean · $3 note text · $4 is_hindered boolean · $5 waiting_file_count int
-- Rows: 0 = forgotten, register again.
UPDATE worker
SET last_seen_at = now(), is_listening = $2::boolean, note = $3::text, is_hindered = $4::boolean,
  waiting_file_count = $5::integer
WHERE id = $1::bigint
RETURNING id

-- name: forget_worker
-- Remove worker $1, which stops.
-- $1 worker_id bigint
-- Rows: 0..1.
DELETE FROM worker
WHERE id = $1::bigint
RETURNING id

-- name: forget_dead_workers
-- Remove the rows of processes that were not seen for $1.
-- $1 silence interval
-- Rows: 0..n.
DELETE FROM worker
WHERE last_seen_at < now() - $1::interval
RETURNING id
