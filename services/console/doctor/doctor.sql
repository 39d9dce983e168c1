-- What the doctor asks a database. Nothing here changes anything.

-- name: get_server
-- What this server is and what this login may do.
-- Rows: 1.
SELECT current_setting('server_version_num')::integer AS version_number, pg_is_in_recovery() AS is_standby,
  -- The second kind of reserve came with PostgreSQL 16.
  current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0) AS connections_max,
  -- pg_stat_activity hides from a login what others do, that they are client backends included.
  (SELECT sum(numbackends)::integer FROM pg_stat_database) AS connections,
  (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_version,
  (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS vector_available,
  (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) AS can_create_roles,
  has_database_privilege(current_database(), 'CREATE') AS can_create_schema,
  -- to_regclass is an error for a login that may not use the schema.
  EXISTS (SELECT FROM pg_tables WHERE schemaname = 'askbox' AND tablename = 'api_key') AS is_migrated,
  extract(epoch FROM clock_timestamp())::double precision AS clock_seconds

-- name: get_roles
-- Of the roles $1, those that exist: whether this login may take them, and whether they see through row-level security.
-- $1 names text[]
-- Rows: one per role that exists.
SELECT rolname::text AS name, pg_has_role(current_user, oid, 'SET') AS is_takeable, rolsuper OR rolbypassrls AS is_unbound
FROM pg_roles
WHERE rolname = ANY ($1::text[])

-- name: get_content
-- The models that collections were filled with, and whether there is a key.
-- Rows: 1.
SELECT ARRAY(SELECT DISTINCT m.name FROM collection AS c JOIN embedding_model AS m ON m.id = c.embedding_model_id ORDER BY m.name)
    AS models,
  EXISTS (SELECT FROM api_key WHERE revoked_at IS NULL) AS has_keys

-- name: get_backend
-- The server process that this session talks to.
-- Rows: 1.
SELECT pg_backend_pid() AS pid

-- name: notify_doctor
-- Wake whoever listens as the doctor does.
-- Rows: 1.
SELECT pg_notify('askbox_doctor', '')
