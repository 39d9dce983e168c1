"""What is attached to a mail: made once, bounded, and gone with its mail."""

from tests.crash.safeguards.mutant import Mutant, mutant

ATTACHING, STATEMENTS = "services/ingester/attachments.py", "services/ingester/attachments.sql"
INGEST, INTAKE, MIGRATION = "services/ingester/ingest.py", "shared/intake.py", "sql/0015_attachments.sql"
TESTS, LETTERS = "tests/db/test_attachments.py", "tests/unit/test_parsing_email.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "attachments: an older version of the mail says nothing",
        ATTACHING,
        "    if holder.is_overtaken or not (",
        "    if not (",
        f"{TESTS}::test_older_version_of_a_mail_says_nothing_once_a_newer_one_has_spoken",
    ),
    mutant(
        "attachments: the mail is locked before it is looked at",
        STATEMENTS,
        "FOR NO KEY UPDATE OF d\n",
        "\n",
        f"{TESTS}::test_mail_without_attachments_waits_for_an_older_version_with_some",
    ),
    mutant(
        "attachments: what the mail holds no more is removed",
        STATEMENTS,
        "AND parent_id = $2::bigint AND NOT source_uri = ANY ($3::text[])",
        "AND parent_id = -$2::bigint AND NOT source_uri = ANY ($3::text[])",
        f"{TESTS}::test_new_version_of_a_mail_adds_changes_and_removes",
    ),
    mutant(
        "attachments: a mail that holds none any more is looked at",
        ATTACHING,
        "or not (attachments or holder.has_attachments):",
        "or not attachments:",
        f"{TESTS}::test_file_that_is_no_mail_any_more_holds_nothing",
    ),
    mutant(
        "attachments: what was deleted on purpose stays away",
        ATTACHING,
        "    if await intake.is_tombstoned(conn, key.collection_id, uri, stored.sha256):\n",
        "    if stored is None:\n",
        f"{TESTS}::test_attachment_that_was_deleted_on_purpose_stays_away",
    ),
    mutant(
        "attachments: a deletion on purpose follows the mail to its new name",
        INTAKE,
        "                await conn.execute(_MOVE_TOMBSTONES, collection_id, moved_from, source_uri)\n",
        "                pass\n",
        f"{TESTS}::test_attachment_that_was_deleted_on_purpose_stays_away",
    ),
    mutant(
        "attachments: they follow the mail to its new name",
        MIGRATION,
        "      SET source_uri = h.source_uri || '//' || split_part(d.source_uri, '//', -1)\n",
        "      SET source_uri = d.source_uri\n",
        f"{TESTS}::test_renamed_mail_takes_all_it_holds_along_and_embeds_nothing",
    ),
    mutant(
        "attachments: each is read again under its new name",
        MIGRATION,
        "      FROM unnest(moved) AS m (id)\n",
        "      FROM unnest(moved[:0]) AS m (id)\n",
        f"{TESTS}::test_renamed_mail_takes_all_it_holds_along_and_embeds_nothing",
    ),
    mutant(
        "attachments: they go with their mail",
        MIGRATION,
        "REFERENCES document ON DELETE CASCADE",
        "REFERENCES document ON DELETE SET NULL",
        f"{TESTS}::test_attachments_go_with_their_mail",
    ),
    mutant(
        "attachments: they are no files of the inbox that vanished",
        "services/ingester/statements.sql",
        "WHERE d.source_uri LIKE 'inbox:%' AND d.parent_id IS NULL\n",
        "WHERE d.source_uri LIKE 'inbox:%'\n",
        f"{TESTS}::test_attachments_are_no_files_of_the_inbox",
    ),
    mutant(
        "attachments: mails in mails are read to a depth",
        ATTACHING,
        "        self._is_too_deep = attachment_depth(source_uri) >= ATTACHMENT_DEPTH_MAX\n",
        "        self._is_too_deep = False\n",
        f"{TESTS}::test_mails_within_mails_are_read_to_a_depth",
    ),
    mutant(
        "attachments: a mail holds so many in all",
        ATTACHING,
        "    if held > HELD_MAX:\n",
        "    if held < 0:\n",
        f"{TESTS}::test_mails_of_mails_of_mails_have_an_end",
    ),
    mutant(
        "attachments: a parser that lies stores no more than the file can hold",
        ATTACHING,
        "            if not isinstance(item, bytes) or len(item) > self._bytes_left:\n",
        "            if not isinstance(item, bytes):\n",
        f"{TESTS}::test_parser_that_lies_fails_its_file_alone",
    ),
    mutant(
        "attachments: a parser that lies stores no more than so many",
        ATTACHING,
        "        if len(self.stored) + len(self._unread_names) == ATTACHMENTS_MAX:\n",
        "        if len(self.stored) < 0:\n",
        f"{TESTS}::test_parser_that_lies_fails_its_file_alone",
    ),
    mutant(
        "attachments: one within which the parser stopped is not whole",
        ATTACHING,
        '        raise ParserLimit("the parser stopped within an attachment")\n',
        "        return\n",
        f"{TESTS}::test_parser_that_lies_fails_its_file_alone",
    ),
    mutant(
        "attachments: two mails of the same files take them in one order",
        ATTACHING,
        "    order = sorted(range(len(names)), key=lambda place: attachments[place].stored.sha256)\n",
        "    order = list(range(len(names)))\n",
        f"{TESTS}::test_files_of_a_mail_are_taken_in_the_order_of_their_bytes",
    ),
    mutant(
        "attachments: the bytes of an attempt that failed are removed",
        INGEST,
        "                await asyncio.shield(found.discard(self._pool))\n",
        "                pass\n",
        f"{TESTS}::test_zombie_ingester_makes_no_documents",
    ),
    mutant(
        "attachments: whoever asked for a mail asked for them",
        STATEMENTS,
        "WHERE l.collection_id = $1::integer AND l.version_id = $2::bigint\n",
        "WHERE l.collection_id = $1::integer AND l.version_id = -$2::bigint\n",
        f"{TESTS}::test_whoever_asked_for_a_mail_asked_for_what_it_holds",
    ),
    mutant(
        "attachments: what lies too deep is told",
        ATTACHING,
        "            self._unread_names.append(name)\n",
        "",
        f"{TESTS}::test_mails_within_mails_are_read_to_a_depth",
    ),
    mutant(
        "attachments: the lease is extended while a mail waits for its document",
        INGEST,
        "                holder = await lock_holder(conn, version.key, found.stored)\n",
        "                await queue.hold_lease(conn, job.lease_id)\n"
        "                holder = await lock_holder(conn, version.key, found.stored)\n",
        f"{TESTS}::test_lease_of_a_mail_that_waits_for_its_document_is_extended",
    ),
    mutant(
        "attachments: whoever lost the lease while it waited writes nothing",
        INGEST,
        "                await queue.complete_jobs(conn, job.lease_id, [job.id])\n                return made, taken\n",
        "                return made, taken\n",
        f"{TESTS}::test_mail_that_lost_its_lease_while_it_waited_for_its_document_writes_nothing",
    ),
    mutant(
        "messages: parts are nested to a depth",
        "services/ingester/parsing/mime.py",
        "        if node.depth == DEPTH_MAX:\n",
        "        if node.depth < 0:\n",
        f"{LETTERS}::test_nesting_is_bounded",
    ),
)
