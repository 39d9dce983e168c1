"""Safeguards of bodies: what nobody may send is not read, what is not read is answered, and nobody is waited for without end."""

from tests.crash.safeguards.mutant import Mutant, mutant

CONNECTION, UPLOAD, DEPS = "services/query/connection.py", "services/query/upload.py", "services/query/deps.py"
EARLY, UNREAD, SENDING = "tests/api/test_refused_early.py", "tests/api/test_body_unread.py", "tests/unit/test_upload.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "uploads: a body is not read before somebody asks for it",
        CONNECTION,
        "            if self.cycle.more_body and self.cycle.body:\n",
        "            if self.cycle.body is None:\n",
        f"{EARLY}::test_body_that_nobody_asks_for_yet_is_not_read",
    ),
    mutant(
        "uploads: little is read at once",
        CONNECTION,
        "_received = memoryview(bytearray(READ_BYTES_MAX))\n",
        "_received = memoryview(bytearray(262_144))\n",
        f"{EARLY}::test_refusal_arrives_while_the_body_is_sent_and_the_body_is_not_read",
        f"{EARLY}::test_head_that_is_too_long_is_told_so_and_not_read",
    ),
    mutant(
        "uploads: what is left of a body that was refused is not read",
        CONNECTION,
        "        if self.has_unread_body():\n",
        "        if self.flow is None:\n",
        f"{EARLY}::test_refusal_arrives_while_the_body_is_sent_and_the_body_is_not_read",
        f"{EARLY}::test_connection_of_who_goes_on_after_a_refusal_ends",
        hangs=True,
    ),
    mutant(
        "uploads: whoever still sends is given time to read the answer",
        CONNECTION,
        "        if not self._connection.has_unread_body():\n",
        "        if self._connection is not None:\n",
        f"{EARLY}::test_refusal_arrives_while_the_body_is_sent_and_the_body_is_not_read",
    ),
    mutant(
        "uploads: and not more time than that",
        CONNECTION,
        "            self._transport.abort()\n",
        "            pass\n",
        f"{EARLY}::test_connection_of_who_goes_on_after_a_refusal_ends",
        hangs=True,
    ),
    mutant(
        "uploads: a long answer is not cut off because its request was not read",
        CONNECTION,
        "        if self._transport.get_write_buffer_size():  # it is watched whether that is taken\n",
        "        if self._transport is None:\n",
        f"{EARLY}::test_long_answer_to_an_unread_body_is_not_cut_off",
    ),
    mutant(
        "uploads: the end of an answer is not waited for either",
        CONNECTION,
        "        self._connection.watch_the_rest()\n",
        "",
        "tests/api/test_slow_connections.py::test_caller_who_does_not_take_the_end_is_cut_off",
        hangs=True,
    ),
    mutant(
        "uploads: nobody waits for the rest of a body that turned into rubbish",
        CONNECTION,
        "            self.cycle.message_event.set()\n",
        "            pass\n",
        f"{EARLY}::test_body_that_turns_into_rubbish_is_told_so_and_nobody_waits_for_its_end",
        hangs=True,
    ),
    mutant(
        "uploads: in the middle of an answer no other one is given",
        CONNECTION,
        "        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:\n",
        "        if self.conn.our_state is None:\n",
        f"{EARLY}::test_body_that_turns_into_rubbish_behind_the_beginning_of_its_answer_ends_the_connection",
    ),
    mutant(
        "uploads: who calls is asked before a body is read",
        DEPS,
        "            if self.body_field is not None:\n",
        "            if self.body_field is handle:\n",
        f"{UNREAD}::test_no_body_of_a_stranger_is_read",
    ),
    mutant(
        "uploads: a byte now and then is no pace",
        UPLOAD,
        "        if body_bytes - paced_bytes >= PACE_BYTES:\n",
        "        if body_bytes > paced_bytes:\n",
        f"{SENDING}::test_sender_of_one_byte_now_and_then_is_given_up_after_a_minute",
    ),
    mutant(
        "uploads: the time that storing takes is not the sender's",
        UPLOAD,
        "        began_at = loop.time()\n",
        "        began_at = loop.time() if not body_bytes else began_at\n",
        f"{SENDING}::test_time_that_is_taken_to_store_a_body_is_not_its_senders",
    ),
    mutant(
        "uploads: the head of a part is bounded",
        UPLOAD,
        "    if len(kept) > HEADER_BYTES_MAX:\n",
        "    if len(kept) < 0:\n",
        "tests/api/test_ingest.py::test_bad_upload_says_why_and_leaves_nothing",
    ),
    mutant(
        "uploads: what is large is given the time that it takes",
        "shared/intake.py",
        "    return COMMAND_TIMEOUT_SECONDS + file_bytes / STORED_BYTES_PER_SECOND_MIN\n",
        "    return COMMAND_TIMEOUT_SECONDS\n",
        "tests/db/test_upload_walls.py::test_large_files_are_given_the_time_that_their_bytes_take",
    ),
    mutant(
        "uploads: what is large is swept a little at a time",
        "shared/intake.sql",
        "WHERE id IN (SELECT c.id FROM counted AS c WHERE c.parts_before < $3::bigint)\n",
        "WHERE id IN (SELECT c.id FROM counted AS c WHERE c.parts_before < 1000 * $3::bigint)\n",
        "tests/db/test_housekeeping.py::test_large_originals_are_swept_a_few_at_a_time",
    ),
)
