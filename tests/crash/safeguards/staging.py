"""Safeguards of long documents: they are divided, given jobs and published a part at a time, and hold up nobody."""

from tests.crash.safeguards.mutant import Mutant, mutant

CHUNKING, SANDBOX = "services/ingester/chunking.py", "services/ingester/sandbox.py"
INGEST, EMBED = "services/ingester/ingest.py", "services/embedder/embed.py"
CHUNKS, HANDLERS, CHILDREN = "tests/unit/test_chunking.py", "tests/db/test_handlers.py", "tests/crash/test_sandbox.py"

MUTANTS: tuple[Mutant, ...] = (
    # -- chunks are a stream ----------------------------------------------------------------------------------------
    mutant(
        "chunks: a section is not held until its end is known",
        CHUNKING,
        "    for cut in boundaries(looked_at(), radius):\n",
        "    for cut in boundaries(list(looked_at()), radius):\n",
        f"{CHUNKS}::test_first_chunk_of_a_long_section_comes_before_its_end_was_looked_at",
    ),
    mutant(
        "chunks: so many characters are counted at once",
        CHUNKING,
        "or length + span.end - span.start > _CHARACTERS_PER_COUNT):",
        "or length < 0):",
        f"{CHUNKS}::test_little_is_counted_at_once_however_long_sentences_are",
    ),
    mutant(
        "chunks: a word without an end is not counted whole",
        CHUNKING,
        "        short = [span for span in part if span.end - span.start <= CHARACTERS_PER_TOKEN_MAX * room]\n",
        "        short = part\n",
        f"{CHUNKS}::test_word_without_an_end_is_not_counted_whole",
    ),
    mutant(
        "chunks: those of a child that died are no whole document",
        SANDBOX,
        '        if not line.endswith(b"\\n"):\n            raise ParserLimit(',
        '        if not line.endswith(b"\\n"):\n            return\n            raise ParserLimit(',
        f"{CHILDREN}::test_what_a_child_wrote_before_it_died_is_no_whole_document",
    ),
    mutant(
        "sandbox: a child whose parse is given up is killed",
        SANDBOX,
        "            await child.kill(reader)\n",
        "            pass\n",
        f"{CHILDREN}::test_child_whose_parse_is_given_up_is_killed",
    ),
    # -- jobs are made in parts -------------------------------------------------------------------------------------
    mutant(
        "jobs: those of a long version are made in parts",
        INGEST,
        "        while staged_count - first > JOB_CHUNKS_PER_TRANSACTION:\n",
        "        while staged_count < first:\n",
        f"{HANDLERS}::test_jobs_of_a_long_version_are_made_in_parts_each_text_once",
    ),
    mutant(
        "jobs: each part holds the lease",
        INGEST,
        "            await queue.hold_lease(conn, job.lease_id)\n            return await insert_embed_jobs(",
        "            return await insert_embed_jobs(",
        f"{HANDLERS}::test_zombie_makes_no_jobs_of_a_long_version",
    ),
    # -- publications run beside batches ----------------------------------------------------------------------------
    mutant(
        "publish: a long one holds up no other",
        EMBED,
        "        await self._await_asking(ASKING_MAX - 1)\n",
        "        await self._await_asking(0)\n",
        f"{HANDLERS}::test_long_publication_holds_up_no_other",
    ),
    mutant(
        "publish: so many run beside batches and no more",
        EMBED,
        "            if len(self._asking) <= count_max:\n",
        "            if len(self._asking) <= count_max or count_max:\n",
        f"{HANDLERS}::test_publications_beside_batches_are_bounded",
    ),
)
