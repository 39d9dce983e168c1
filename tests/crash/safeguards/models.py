"""Models on servers, vectors, tokens and chunks."""

from tests.crash.safeguards.mutant import Edit, Mutant, mutant

EMBEDDING, PROVIDER, EMBED = "shared/embedding.py", "shared/provider.py", "services/embedder/embed.py"
CHUNKING = "services/ingester/chunking.py"
MODEL, SERVER = "tests/unit/test_openai_model.py", "tests/unit/test_provider.py"
EMBEDDING_TESTS, PUBLICATION = "tests/db/test_provider_embedding.py", "tests/db/test_publication.py"
CHUNKS = "tests/unit/test_chunking.py"
USABLE = f"{MODEL}::test_whatever_is_not_one_usable_vector_for_each_text_is_refused"

MUTANTS: tuple[Mutant, ...] = (
    # -- vectors ----------------------------------------------------------------------------------------------------
    mutant(
        "vectors: a zero is refused",
        EMBEDDING,
        "    if not np.isfinite(norms).all() or (norms < 1e-6).any():\n",
        "    if not np.isfinite(norms).all():\n",
        USABLE,
    ),
    mutant(
        "vectors: what is not finite is refused",
        EMBEDDING,
        "    if not np.isfinite(norms).all() or (norms < 1e-6).any():\n",
        "    if (norms < 1e-6).any():\n",
        USABLE,
    ),
    mutant(
        "vectors: as many as texts, each for one",
        EMBEDDING,
        "        if len(items) != count or sorted(by_place) != list(range(count)):\n",
        "        if not items:\n",
        USABLE,
    ),
    mutant(
        "vectors: of the model's dimension",
        EMBEDDING,
        "    if vectors.shape != (count, dimension):\n",
        "    if len(vectors) != count:\n",
        USABLE,
    ),
    mutant(
        "vectors: each is the one of its text, in whatever order they come",
        EMBEDDING,
        "        raw = np.array([by_place[place] for place in range(count)])\n",
        '        raw = np.array([item["embedding"] for item in items])\n',
        f"{MODEL}::test_vectors_are_put_in_the_order_of_the_texts_and_normalised",
    ),
    mutant(
        "vectors: the database takes only those of length 1",
        "sql/0003_search.sql",
        "CHECK (l2_norm(vector) BETWEEN 0.98 AND 1.02)",
        "CHECK (l2_norm(vector) >= 0)",
        "tests/db/test_handlers.py::test_database_refuses_a_vector_that_has_not_length_one",
    ),
    mutant(
        "vectors: a text longer than the model reads is refused",
        EMBEDDING,
        "        if count > tokens_max:\n",
        "        if count < 0:\n",
        f"{MODEL}::test_text_longer_than_the_model_reads_is_refused_and_not_sent",
    ),
    mutant(
        "vectors: those of another model stop the start",
        "shared/intake.py",
        "    if others:\n",
        "    if others and not others:\n",
        "tests/db/test_handlers.py::test_database_filled_with_another_model_is_refused_by_whoever_fills_it",
    ),
    # -- blame ------------------------------------------------------------------------------------------------------
    mutant(
        "blame: of a rejected batch one text is guilty",
        EMBED,
        "                if len(part) == 1:\n",
        "                if part:\n",
        f"{PUBLICATION}::test_model_rejecting_one_text_buries_that_one_alone",
    ),
    mutant(
        "blame: what was computed before an outage is stored",
        EMBED,
        "                return _Encoded(vectors, rejected, error)\n",
        "                return _Encoded({}, {}, error)\n",
        f"{EMBEDDING_TESTS}::test_what_was_computed_before_a_pause_is_stored_and_not_asked_again",
    ),
    mutant(
        "blame: a server that rejects everything is at fault itself",
        EMBEDDING,
        "            await self._see_that_it_is_well()\n            raise RejectedText(\n",
        "            raise RejectedText(\n",
        f"{EMBEDDING_TESTS}::test_server_that_rejects_everything_is_at_fault_itself",
        hangs=True,
    ),
    mutant(
        "blame: a text that breaks the server each time is charged",
        EMBEDDING,
        "            if has_failed_before:\n",
        "            if has_failed_before and not texts:\n",
        f"{EMBEDDING_TESTS}::test_text_that_breaks_the_server_each_time_is_charged_and_the_others_are_not_held_up",
        hangs=True,
    ),
    # -- the provider -----------------------------------------------------------------------------------------------
    mutant(
        "provider: nothing is sent within a Retry-After",
        PROVIDER,
        "        if seconds > 0:\n            raise NotNow",
        "        if seconds > 10**9:\n            raise NotNow",
        f"{SERVER}::test_nothing_is_sent_before_the_server_wants_it",
    ),
    mutant(
        "provider: Retry-After is obeyed",
        PROVIDER,
        "        seconds = retry_after or min(",
        "        seconds = min(",
        f"{SERVER}::test_nothing_is_sent_before_the_server_wants_it",
        f"{SERVER}::test_shorter_pause_does_not_shorten_a_longer_one",
    ),
    mutant(
        "models: a length that is news counts when it is given twice",
        "services/embedder/register.py",
        "dimension != expected and await model.probe() != dimension:",
        "dimension is None:",
        f"{EMBEDDING_TESTS}::test_one_answer_of_another_length_is_neither_registered_nor_ends_an_embedder",
    ),
    mutant(
        "provider: a database that tells of no pauses keeps no call back",
        "shared/models.py",
        "        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS, asyncpg.PostgresError):\n"
        "            async with asyncio.timeout(PAUSE_LOOK_SECONDS_MAX):\n                row =",
        "        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):\n"
        "            async with asyncio.timeout(PAUSE_LOOK_SECONDS_MAX):\n                row =",
        f"{EMBEDDING_TESTS}::test_database_that_tells_nobody_of_pauses_keeps_no_call_back",
    ),
    mutant(
        "provider: what one embedder was asked holds for the others",
        PROVIDER,
        "                await self._pause.extend(self.endpoint.fingerprint, asked, str(failure))\n",
        "                pass\n",
        f"{EMBEDDING_TESTS}::test_pause_that_one_embedder_is_asked_for_holds_for_every_other",
    ),
    mutant(
        "provider: the pause of the others is looked up before a call",
        PROVIDER,
        "            self._gate.close(reason, seconds)\n            self._gate.check()\n",
        "            self._gate.close(reason, 0 * seconds)\n            self._gate.check()\n",
        f"{EMBEDDING_TESTS}::test_pause_that_one_embedder_is_asked_for_holds_for_every_other",
    ),
    mutant(
        "provider: a shorter pause of one process shortens no longer one of another",
        "shared/models.sql",
        " OR paused_until < clock_timestamp() + $2::interval)",
        " OR $2::interval IS NOT NULL)",
        f"{EMBEDDING_TESTS}::test_longest_pause_counts_and_a_model_that_nobody_registered_has_none",
    ),
    mutant(
        "provider: a pause holds for the server and the key that it was told to",
        "shared/models.sql",
        " AND (pause_server IS NULL OR pause_server = $2::text)",
        " AND $2::text IS NOT NULL",
        f"{EMBEDDING_TESTS}::test_pause_of_one_server_keeps_no_call_from_another_or_with_another_key",
    ),
    mutant(
        "provider: another key is told from the one that was asked to wait",
        PROVIDER,
        'key = self.key.get_secret_value() if self.key else ""',
        'key = ""',
        f"{EMBEDDING_TESTS}::test_pause_of_one_server_keeps_no_call_from_another_or_with_another_key",
    ),
    mutant(
        "provider: pauses double up to a bound",
        PROVIDER,
        "min(PAUSE_SECONDS_MIN * 2.0 ** (self._failures - 1), PAUSE_SECONDS_MAX)",
        "PAUSE_SECONDS_MIN",
        f"{SERVER}::test_pauses_double_up_to_a_bound",
    ),
    mutant(
        "provider: an old success opens no gate",
        PROVIDER,
        "        if started_at >= self._failed_at:\n",
        "        if started_at >= 0:\n",
        f"{SERVER}::test_success_of_a_call_sent_before_a_failure_opens_nothing",
    ),
    mutant(
        "provider: attempts are bounded",
        PROVIDER,
        "            stop=stop_after_attempt(ATTEMPTS_MAX),\n",
        "            stop=stop_after_attempt(ATTEMPTS_MAX * 3),\n",
        f"{SERVER}::test_attempts_are_bounded_and_then_the_gate_is_closed",
    ),
    mutant(
        "provider: a call takes no longer than its time-out",
        PROVIDER,
        "            async with asyncio.timeout(self._timeout_seconds):\n",
        "            async with asyncio.timeout(None):\n",
        f"{SERVER}::test_server_that_answers_a_byte_at_a_time_is_given_up",
        hangs=True,
    ),
    mutant(
        "provider: an answer without end is cut off",
        PROVIDER,
        "            if seen > RESPONSE_BYTES_MAX:\n",
        "            if seen < 0:\n",
        f"{SERVER}::test_answer_without_end_is_cut_off",
        hangs=True,
    ),
    mutant(
        "provider: texts are sent nowhere else",
        PROVIDER,
        "                follow_redirects=False,",
        "                follow_redirects=True,",
        f"{SERVER}::test_what_no_second_attempt_mends_is_asked_once_and_names_the_setting",
    ),
    # -- chunks -----------------------------------------------------------------------------------------------------
    mutant(
        "chunks: none is longer than the model reads",
        CHUNKING,
        "        if tokens <= tokens_max or len(part) == 1:\n",
        "        if part:\n",
        f"{CHUNKS}::test_no_chunk_is_longer_than_the_model_reads_though_parts_count_less",
    ),
    mutant(
        "chunks: a sentence longer than the model reads is divided",
        CHUNKING,
        "(weight := next(weights)) <= room:\n",
        "(weight := next(weights)) > 0:\n",
        f"{CHUNKS}::test_hostile_text_fits_the_model_in_linear_time",
    ),
    Mutant(
        "chunks: characters count too",
        (
            Edit(CHUNKING, " if span.end - span.start <= CHARACTERS_PER_TOKEN_MAX * room]\n", "]\n"),
            Edit(CHUNKING, "end - start <= CHARACTERS_PER_TOKEN_MAX * room and (weight", "(weight"),
            Edit(CHUNKING, " -((span.start - span.end) // CHARACTERS_PER_TOKEN_MAX), 1)\n", " 1)\n"),
        ),
        (f"{CHUNKS}::test_chunks_of_text_that_is_one_token_are_bounded_by_their_characters",),
    ),
    mutant(
        "chunks: none crosses a heading",
        CHUNKING,
        "        if block.kind is not BlockKind.HEADING:\n",
        "        if block.kind is not BlockKind.HEADING or blocks:\n",
        f"{CHUNKS}::test_no_chunk_crosses_a_heading",
    ),
    mutant(
        "chunks: boundaries depend on what is near alone",
        CHUNKING,
        "            while inner and inner[0].end + radius <= entering.end:\n",
        "            while inner:\n",
        f"{CHUNKS}::test_edit_of_one_sentence_makes_at_most_three_new_chunks",
        f"{CHUNKS}::test_boundaries_are_the_places_of_least_priority_around",
    ),
    mutant(
        "chunks: tokens are counted beyond what the tokenizer's file cuts at",
        "shared/tokens.py",
        "        self._tokenizer.no_truncation()\n",
        "",
        "tests/unit/test_tokens.py::test_counts_are_neither_truncated_nor_padded",
    ),
    mutant(
        "chunks: text is storable",
        "shared/text.py",
        r'_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")',
        r'_UNSTORABLE = re.compile(r"[\ud800-\udfff]")',
        "tests/unit/test_text.py::test_storable_text_keeps_every_place",
    ),
)
