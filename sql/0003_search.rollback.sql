SET ROLE askbox_owner;
DROP FUNCTION tsv_length(tsvector), chunk_tsv(regconfig, text, text, text);
DROP TABLE collection_language, collection_stat, term_stat, chunk_vector, chunk_position, chunk, embedding, staged_chunk CASCADE;
RESET ROLE;
