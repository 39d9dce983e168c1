SET ROLE askbox_owner;
DROP TABLE metric_total;
RESET ROLE;
