SET ROLE askbox_owner;
DROP FUNCTION lexical_hits(integer, text, bigint[], integer);
DROP FUNCTION question_terms(integer, text);
RESET ROLE;
