-- Three roles: who owns the tables, who works the queue, who answers questions.
-- They are cluster-wide and may exist already, made by another database or by an administrator.
DO $$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['askbox_owner', 'askbox_worker', 'askbox_reader'] LOOP
    -- CREATE ROLE checks the right to create before it looks whether the role is there.
    IF to_regrole(role_name) IS NULL THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', role_name);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database of this cluster was faster
      END;
    END IF;
    IF NOT pg_has_role(current_user, role_name, 'SET') THEN
      EXECUTE format('GRANT %I TO %I WITH INHERIT FALSE, SET TRUE', role_name, current_user);
    END IF;
  END LOOP;
END $$;

-- CREATE EXTENSION checks the right to create before it looks whether the extension is there.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector') THEN
    CREATE EXTENSION vector;
  END IF;
END $$;

GRANT USAGE, CREATE ON SCHEMA askbox TO askbox_owner;
GRANT USAGE ON SCHEMA askbox TO askbox_worker, askbox_reader;
