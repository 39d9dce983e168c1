-- The roles stay: other databases of the cluster may use them. So does an extension that somebody else installed.
REVOKE ALL ON SCHEMA askbox FROM askbox_owner, askbox_worker, askbox_reader;
DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector' AND extnamespace = 'askbox'::regnamespace) THEN
    DROP EXTENSION vector;
  END IF;
END $$;
