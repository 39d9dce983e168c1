"""Safeguards of files that are sent: each is bounded, what is not taken leaves nothing, and nobody takes every place."""

from tests.crash.safeguards.mutant import Mutant, mutant

RECEIVE, UPLOAD, SLOTS = "services/query/receive.py", "services/query/upload.py", "services/query/slots.py"
SENDING, BODIES = "tests/api/test_ingest.py", "tests/unit/test_upload.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "uploads: what was not taken is removed",
        RECEIVE,
        "                await intake.discard_bytes(self._pool, file.stored)\n",
        "                pass\n",
        f"{SENDING}::test_more_files_than_allowed_are_refused_and_nothing_stays_of_any",
        f"{SENDING}::test_bad_upload_says_why_and_leaves_nothing",
    ),
    mutant(
        "uploads: a file over the limit is refused",
        RECEIVE,
        "        if file_bytes > bytes_max:\n",
        "        if file_bytes < 0:\n",
        f"{SENDING}::test_file_that_is_too_large_is_told_beside_those_that_are_taken",
    ),
    mutant(
        "uploads: nothing of a file is read as long as its collection is in doubt",
        RECEIVE,
        "                if must_name and self.collection_name is None:\n",
        "                if must_name is None:\n",
        "tests/api/test_unnamed_collection.py::test_nothing_of_a_file_is_read_when_a_collection_is_missing",
    ),
    mutant(
        "uploads: a body without its end is refused",
        UPLOAD,
        "        if not self._is_whole:\n",
        "        if self._is_whole is None:\n",
        f"{BODIES}::test_body_that_ends_early_is_refused_wherever_it_ends",
    ),
    mutant(
        "uploads: one key does not take every place",
        SLOTS,
        "        if self._held[key_id] >= self.each_max:\n",
        "        if self._held[key_id] < 0:\n",
        "tests/api/test_hostile_requests.py::test_one_key_cannot_take_every_place_of_uploads",
    ),
    mutant(
        "slots: nobody waits for one without end",
        SLOTS,
        "            async with asyncio.timeout(self._wait_seconds_max):\n",
        "            async with asyncio.timeout(None):\n",
        "tests/api/test_generation.py::test_waiting_for_a_slot_ends",
    ),
)
