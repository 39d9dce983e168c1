"""Publication: what is asked, when, under which lock, and what is cleared away."""

from tests.crash.safeguards.mutant import Mutant, mutant

SQL, ASK = "shared/publication.sql", "shared/publication.py"
EMBED, INGEST, EMBEDDER_SQL = (
    "services/embedder/embed.py",
    "services/ingester/ingest.py",
    "services/embedder/statements.sql",
)
PUBLICATION, RACES, HANDLERS = "tests/db/test_publication.py", "tests/db/test_races.py", "tests/db/test_handlers.py"
HOUSEKEEPING, UNPUBLISHABLE = "tests/db/test_housekeeping.py", "tests/db/test_unpublishable.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "ask: the document is locked first",
        SQL,
        "FOR NO KEY UPDATE\n\n-- name: try_lock_document_of_version",
        "\n-- name: try_lock_document_of_version",
        f"{RACES}::test_question_waits_for_the_document_and_sees_what_its_holder_did",
    ),
    mutant(
        "ask: the sweep leaves a document that somebody holds",
        SQL,
        "FOR NO KEY UPDATE SKIP LOCKED\n",
        "FOR NO KEY UPDATE\n",
        f"{RACES}::test_sweep_leaves_a_document_that_somebody_holds",
    ),
    mutant(
        "ask: an older version never replaces a newer one",
        ASK,
        'if version["live_version_id"] is not None and key.version_id < version["live_version_id"]:',
        'if version["live_version_id"] is not None and key.version_id < 0:',
        f"{PUBLICATION}::test_older_version_that_is_asked_for_behind_the_newer_one_is_superseded",
    ),
    mutant(
        "ask: only a version that is staged is published",
        ASK,
        '    if version["state"] != "embedding":\n',
        '    if version["state"] == "failed":\n',
        f"{RACES}::test_two_last_completions_publish_once",
    ),
    mutant(
        "ask: a dead text fails the version",
        ASK,
        "    if dead is not None:\n",
        "    if dead is not None and not dead:\n",
        f"{PUBLICATION}::test_buried_text_fails_every_version_that_waits_and_leaves_the_old_one_live",
    ),
    mutant(
        "ask: a text without vector and job gets a job",
        ASK,
        "        await conn.fetch(_INSERT_JOBS, *ids, model_id, CHUNKS_PER_RANK, 0, ORDINAL_MAX, timeout=PUBLISH_SECONDS_MAX)\n"
        "        return Answer.WAITING, None\n",
        "        return Answer.WAITING, None\n",
        f"{PUBLICATION}::test_pruned_vector_is_computed_again",
    ),
    mutant(
        "ask: nothing is published while a text waits",
        SQL,
        "SELECT count(*) AS missing\n",
        "SELECT count(*) - count(*) AS missing\n",
        f"{PUBLICATION}::test_pruned_vector_is_computed_again",
    ),
    mutant(
        "ask: after the commit of the ingester",
        INGEST,
        "                await ask_all(self._pool, [key])\n",
        "                continue\n",
        f"{HANDLERS}::test_file_whose_texts_all_have_vectors_is_ready_without_an_embedder",
    ),
    mutant(
        "ask: after the commit of the embedder",
        EMBED,
        "        keys = await versions_waiting_for_texts(self._pool, self._model_id, hashes)\n        await ask_all(self._pool, keys)\n",
        "        await versions_waiting_for_texts(self._pool, self._model_id, hashes)\n",
        f"{PUBLICATION}::test_version_is_published_when_its_last_text_has_a_vector",
    ),
    mutant(
        "ask: after a burial",
        EMBED,
        "        await ask_all(self._pool, await versions_waiting_for_texts(self._pool, self._model_id, hashes))\n",
        "        await versions_waiting_for_texts(self._pool, self._model_id, hashes)\n",
        f"{PUBLICATION}::test_buried_text_fails_every_version_that_waits_and_leaves_the_old_one_live",
    ),
    mutant(
        "ask: by the sweep, for whoever died before",
        ASK,
        "        await ask_all(self._pool, [VersionKey(**row) for row in rows], waits=False)\n",
        "        await self.fail_dead_ingests()\n",
        f"{PUBLICATION}::test_lost_question_is_asked_by_the_sweep",
    ),
    mutant(
        "ask: versions whose ingest job died end by the sweep",
        ASK,
        '        """Ask for the next page, and end versions whose ingest job is a dead letter."""\n        await self.fail_dead_ingests()\n',
        '        """Ask for the next page, and end versions whose ingest job is a dead letter."""\n',
        f"{HANDLERS}::test_version_whose_ingester_died_at_every_attempt_ends_with_its_reason",
    ),
    mutant(
        "ask: one version that cannot be published stops no other",
        ASK,
        "            log(Event.PUBLICATION_FAILED, logging.ERROR, error=error, version_id=key.version_id)\n",
        "            log(Event.PUBLICATION_FAILED, logging.ERROR, error=error, version_id=key.version_id)\n            raise\n",
        f"{UNPUBLISHABLE}::test_one_that_cannot_be_published_stops_no_other",
    ),
    mutant(
        "ask: content that the database refuses ends its version",
        ASK,
        "                await _fail_unpublishable(pool, key, error)\n",
        "                continue\n",
        f"{UNPUBLISHABLE}::test_content_that_the_database_refuses_ends_its_version",
    ),
    mutant(
        "publish: as many vectors as chunks, or nothing",
        ASK,
        'if counts["inserted"] != counts["inserted_vectors"] or ',
        "if ",
        f"{PUBLICATION}::test_vector_pruned_between_the_look_and_the_publication_rolls_back",
    ),
    mutant(
        "publish: the positions of the version before are deleted",
        ASK,
        "        await conn.execute(_DELETE_POSITIONS, key.collection_id, live_version_id)\n",
        "        pass\n",
        f"{PUBLICATION}::test_edit_keeps_unchanged_chunks_and_embeds_only_new_texts",
    ),
    mutant(
        "publish: chunks that vanished are deleted",
        ASK,
        "    if vanished:\n",
        "    if vanished and not vanished:\n",
        f"{PUBLICATION}::test_edit_keeps_unchanged_chunks_and_embeds_only_new_texts",
    ),
    mutant(
        "publish: what was staged is deleted",
        ASK,
        "    await conn.execute(_DELETE_STAGED, *ids)\n    age_ms",
        "    age_ms",
        f"{PUBLICATION}::test_version_is_published_when_its_last_text_has_a_vector",
    ),
    mutant(
        "publish: equal paragraphs stay apart",
        SQL,
        "  FULL JOIN live ON live.chunk_hash = s.chunk_hash AND live.occurrence = s.occurrence\n",
        "  FULL JOIN live ON live.chunk_hash = s.chunk_hash\n",
        f"{PUBLICATION}::test_equal_paragraphs_keep_separate_places",
    ),
    mutant(
        "publish: fresh term statistics are asked for",
        ASK,
        "            await pool.execute(_REQUEST_STATISTICS, key.collection_id)\n",
        "            pass\n",
        f"{HANDLERS}::test_publication_asks_for_fresh_statistics",
    ),
    mutant(
        "publish: statistics older than a publication are asked for again",
        EMBEDDER_SQL,
        "(s.refreshed_at IS NULL OR v.ready_at > s.refreshed_at)",
        "s.refreshed_at IS NULL",
        f"{HANDLERS}::test_statistics_older_than_a_publication_are_counted_again",
    ),
    mutant(
        "publish: a newer arrival ends only what nobody has begun",
        "sql/0007_uploads.sql",
        "WHERE collection_id = for_collection_id AND document_id = for_document_id AND state = 'queued';",
        "WHERE collection_id = for_collection_id AND document_id = for_document_id AND state IN ('queued', 'parsing', 'embedding');",
        f"{PUBLICATION}::test_new_arrival_lets_a_version_in_work_finish",
    ),
    mutant(
        "publish: a newer arrival ends what nobody has begun",
        "sql/0007_uploads.sql",
        "WHERE collection_id = for_collection_id AND document_id = for_document_id AND state = 'queued';",
        "WHERE collection_id = for_collection_id AND document_id = for_document_id AND state = 'failed';",
        f"{PUBLICATION}::test_new_arrival_supersedes_a_version_that_nobody_has_begun",
    ),
    # -- jobs for texts ---------------------------------------------------------------------------------------------
    mutant(
        "texts: their jobs are inserted in the order of the hashes",
        SQL,
        "ORDER BY missing.text_hash\nON CONFLICT",
        "ORDER BY missing.rank\nON CONFLICT",
        f"{RACES}::test_stagings_of_the_same_texts_in_opposite_orders_do_not_deadlock",
        f"{RACES}::test_jobs_of_texts_are_inserted_in_the_order_of_their_hashes",
    ),
    mutant(
        "texts: two documents that want one text make one job",
        SQL,
        "ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING\nRETURNING id\n\n-- name: advance_embed_jobs",
        "RETURNING id\n\n-- name: advance_embed_jobs",
        f"{PUBLICATION}::test_second_document_that_wants_a_text_hurries_its_job",
    ),
    mutant(
        "texts: one that has its vector needs no job",
        SQL,
        "    AND NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = $3::smallint AND e.text_hash = s.text_hash)\n  GROUP BY",
        "  GROUP BY",
        f"{HANDLERS}::test_file_whose_texts_all_have_vectors_is_ready_without_an_embedder",
    ),
    mutant(
        "texts: one that got its vector meanwhile is not embedded again",
        EMBEDDER_SQL,
        "WHERE NOT EXISTS (SELECT 1 FROM embedding AS e WHERE e.model_id = $1::smallint AND e.text_hash = h.text_hash)\n",
        "WHERE $1::smallint > 0\n",
        f"{PUBLICATION}::test_text_that_has_its_vector_already_calls_no_model",
    ),
    mutant(
        "texts: a second document hurries the job of the first",
        SQL,
        "  WHERE j.rank > w.rank AND j.lease_id IS NULL\n",
        "  WHERE j.rank < w.rank AND j.lease_id IS NULL\n",
        f"{PUBLICATION}::test_second_document_that_wants_a_text_hurries_its_job",
    ),
    mutant(
        "texts: the vectors of a zombie are not stored",
        EMBED,
        "                done = await queue.complete_jobs(conn, lease_id, list(by_id))\n",
        "                done = set(by_id)\n",
        f"{PUBLICATION}::test_zombie_embedder_stores_nothing",
    ),
    mutant(
        "texts: a vector that a staged chunk uses is not pruned",
        EMBEDDER_SQL,
        "    AND NOT EXISTS (SELECT 1 FROM staged_chunk AS s WHERE s.text_hash = e.text_hash)\n",
        "",
        f"{HOUSEKEEPING}::test_vector_in_use_is_never_pruned",
    ),
    mutant(
        "texts: a vector that a published chunk uses is not pruned",
        EMBEDDER_SQL,
        "    AND NOT EXISTS (SELECT 1 FROM chunk AS c WHERE c.text_hash = e.text_hash)\n",
        "",
        f"{HOUSEKEEPING}::test_vector_in_use_is_never_pruned",
    ),
    mutant(
        "texts: a young vector is not pruned",
        EMBEDDER_SQL,
        "  WHERE e.created_at < now() - $1::interval\n",
        "  WHERE $1::interval IS NOT NULL\n",
        f"{HOUSEKEEPING}::test_vector_is_kept_until_it_is_old",
    ),
    # -- staging ----------------------------------------------------------------------------------------------------
    mutant(
        "staging: what an attempt that died has staged is removed",
        INGEST,
        "                await delete_staged_chunks(conn, version.key)  # of an attempt that died\n",
        "",
        f"{HANDLERS}::test_attempt_after_one_that_died_within_its_staging_begins_anew",
    ),
    mutant(
        "staging: each batch holds the lease",
        INGEST,
        "                await queue.hold_lease(conn, job.lease_id)\n                if size is not None:\n",
        "                if size is not None:\n",
        f"{HANDLERS}::test_zombie_ingester_stages_nothing",
    ),
    mutant(
        "staging: the job is completed with its effect",
        INGEST,
        "                await queue.complete_jobs(conn, job.lease_id, [job.id])\n                return made, taken\n",
        "                return made, taken\n",
        f"{HANDLERS}::test_file_is_staged_and_its_job_completed_together",
    ),
    mutant(
        "staging: an original that is not whole is refused",
        INGEST,
        "        if file.tell() != version.file_bytes:\n",
        "        if file.tell() < 0:\n",
        f"{HANDLERS}::test_original_that_is_not_whole_is_refused",
    ),
    # -- transactions and models ------------------------------------------------------------------------------------
    mutant(
        "transactions: none is open while the model works",
        EMBED,
        "            encoded = await self._encode(texts)\n",
        "            async with self._pool.acquire() as held, held.transaction():\n"
        "                await held.fetchval('SELECT 1')\n"
        "                encoded = await self._encode(texts)\n",
        f"{HANDLERS}::test_no_transaction_is_open_while_the_model_works",
    ),
    mutant(
        "transactions: none is open while a file is parsed",
        INGEST,
        "                    head, chunk_count = await self._stage(version, job, file, found)\n",
        "                    async with self._pool.acquire() as held, held.transaction():\n"
        "                        await held.fetchval('SELECT 1')\n"
        "                        head, chunk_count = await self._stage(version, job, file, found)\n",
        f"{HANDLERS}::test_no_transaction_is_open_while_a_file_is_parsed",
    ),
    mutant(
        "transactions: one that is left open is ended by the server",
        "shared/database.py",
        '        "idle_in_transaction_session_timeout": "60s",\n',
        "",
        f"{HANDLERS}::test_every_session_bounds_what_it_may_hold_up",
    ),
    mutant(
        "transactions: nobody waits for a lock without end",
        "shared/database.py",
        '        "lock_timeout": f"{LOCK_TIMEOUT_SECONDS:.0f}s",\n',
        "",
        f"{HANDLERS}::test_every_session_bounds_what_it_may_hold_up",
    ),
)
