SET ROLE askbox_owner;
DROP VIEW requested_version;
RESET ROLE;
