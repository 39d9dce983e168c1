SET ROLE askbox_owner;
DROP FUNCTION chunks_sharing(integer, text, bigint[], integer), chunks_holding(integer, text, boolean);
RESET ROLE;
