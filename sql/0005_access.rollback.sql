SET ROLE askbox_owner;
DO $$
DECLARE
  policy record;
BEGIN
  FOR policy IN SELECT tablename, policyname FROM pg_policies WHERE schemaname = 'askbox' LOOP
    EXECUTE format('DROP POLICY %I ON askbox.%I', policy.policyname, policy.tablename);
    EXECUTE format('ALTER TABLE askbox.%I NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY', policy.tablename);
  END LOOP;
END $$;
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'askbox' AND tableowner = 'askbox_owner' LOOP
    EXECUTE format('REVOKE ALL ON askbox.%I FROM askbox_worker, askbox_reader', name);
  END LOOP;
END $$;
DROP TABLE askbox.token_usage, askbox.key_grant, askbox.api_key CASCADE;
DROP FUNCTION askbox.scope();
RESET ROLE;
