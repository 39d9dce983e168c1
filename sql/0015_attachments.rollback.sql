SET ROLE askbox_owner;
-- Without their mails they would be files of the inbox that vanished.
DELETE FROM document WHERE parent_id IS NOT NULL;
DROP FUNCTION move_attachments(integer, bigint, text, text, text);
DROP INDEX requested_version_id, tombstone_of_attachment;
ALTER TABLE document DROP CONSTRAINT attachment_is_named_as_one;
ALTER TABLE document DROP COLUMN parent_id;
RESET ROLE;
