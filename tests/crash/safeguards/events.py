"""Safeguards of file-system events: what is not heard, or not understood, is found by a scan, and nothing piles up."""

from tests.crash.safeguards.mutant import Mutant, mutant

EVENTS, INOTIFY, WATCH = "services/ingester/events.py", "services/ingester/inotify.py", "services/ingester/watch.py"
HEARING, WATCHING = "tests/unit/test_inbox_events.py", "tests/db/test_watch.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "events: a scan looks for what was lost",
        WATCH,
        "            case Lost():\n                self._scan_now = True\n",
        "            case Lost():\n                pass\n",
        f"{WATCHING}::test_file_of_which_nobody_heard_is_found_when_something_was_lost",
    ),
    mutant(
        "events: a new folder is scanned at once",
        EVENTS,
        "        elif happening.is_folder:\n            self._send(Lost())\n",
        "        elif happening.is_folder:\n            pass\n",
        f"{HEARING}::test_new_folder_asks_for_a_scan_and_is_watched_from_then_on",
    ),
    mutant(
        "events: what moves out of the inbox is removed",
        EVENTS,
        "        self._loop.call_later(HALF_MOVE_SECONDS, self._give_up_half, happening)\n",
        "",
        f"{HEARING}::test_moves_within_into_and_out_of_the_inbox",
    ),
    mutant(
        "events: a folder that left the inbox is not watched on",
        EVENTS,
        "            self._inotify.forget(half.path)\n",
        "",
        f"{HEARING}::test_folder_that_left_the_inbox_is_not_heard_of_again",
    ),
    mutant(
        "events: signals that nobody takes are bounded",
        EVENTS,
        "        if signals.qsize() < SIGNALS_MAX:\n",
        "        if signals.qsize() >= 0:\n",
        f"{HEARING}::test_signals_that_nobody_takes_are_bounded",
    ),
    mutant(
        "events: signals that find no room are lost and not forgotten",
        EVENTS,
        "            signals.put_nowait(Lost())  # bounded: the scan finds the rest\n",
        "            pass\n",
        f"{HEARING}::test_signals_that_nobody_takes_are_bounded",
    ),
    mutant(
        "events: a scan of the inbox before watches nothing for the next one",
        EVENTS,
        "        if self._is_closed:  # the inbox is another folder now, and this scan is of the one before\n",
        "        if not self._loop:\n",
        f"{HEARING}::test_scan_of_the_inbox_before_watches_nothing_for_the_next_one",
    ),
)
