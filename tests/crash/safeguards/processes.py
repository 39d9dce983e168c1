"""Safeguards of processes: a stop is neither cut short nor endless, and the embedded server comes back and goes with its users."""

from tests.crash.safeguards.mutant import Mutant, mutant

PROCESS, EMBEDDED = "shared/process.py", "shared/embedded.py"
STOPPING, SERVING = "tests/db/test_stopping.py", "tests/crash/test_embedded.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "stop: a second signal cuts it not short",
        PROCESS,
        "            signal.signal(number, signal.SIG_IGN if is_told else _quit)\n",
        "            signal.signal(number, _quit)\n",
        f"{STOPPING}::test_second_signal_cuts_no_stop_short",
    ),
    mutant(
        "stop: one that takes too long is cut short",
        PROCESS,
        "            _end_within(work_seconds + END_SECONDS_MAX)\n",
        "",
        f"{STOPPING}::test_process_that_cannot_stop_ends_itself_and_says_so",
    ),
    mutant(
        "embedded: a server that ended unburied is not taken for alive",
        EMBEDDED,
        "bool(psutil.pid_exists(pid)) and not _is_unburied(pid)\n",
        "bool(psutil.pid_exists(pid))\n",
        f"{SERVING}::test_server_that_ended_unburied_is_started_again",
    ),
    mutant(
        "embedded: users that were killed hold no server",
        EMBEDDED,
        "        _forget_dead_users(server)\n",
        "",
        f"{SERVING}::test_server_of_a_killed_user_stops_with_the_next_one",
    ),
    mutant(
        "evaluation: what a killed one leaves is cleared by its guardian",
        "services/console/evaluation/guardian.py",
        "waits=True",
        "waits=False",
        "tests/crash/test_eval_killed.py::test_guardian_clears_the_home_of_a_killed_evaluation_once_nobody_uses_it",
    ),
    mutant(
        "evaluation: a home that somebody holds is not cleared",
        "services/console/evaluation/home.py",
        "        fcntl.flock(mark, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))\n",
        "        if waits:\n            fcntl.flock(mark, fcntl.LOCK_EX)\n",
        "tests/crash/test_eval_killed.py::test_guardian_clears_the_home_of_a_killed_evaluation_once_nobody_uses_it",
    ),
    mutant(
        "evaluation: the home of a killed one is cleared by the next when its guardian was killed too",
        "services/console/evaluation/home.py",
        "        clear_abandoned()\n",
        "",
        "tests/crash/test_eval_killed.py::test_next_evaluation_clears_what_was_killed_with_its_guardian_and_nothing_else",
    ),
    mutant(
        "evaluation: a home that is kept is never removed",
        "services/console/evaluation/home.py",
        "        if path.name == _THROWN_MARK:\n",
        "        if path.name:\n",
        "tests/crash/test_eval_killed.py::test_kept_home_of_a_killed_evaluation_stays_and_its_server_stops",
    ),
)
