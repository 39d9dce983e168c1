SET ROLE askbox_owner;
DROP TABLE dead_letter, job, lease, worker CASCADE;
DROP FUNCTION wake_workers();
RESET ROLE;
