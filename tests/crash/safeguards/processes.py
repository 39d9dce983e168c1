"""Safeguards of processes: a stop is neither cut short nor endless, and the embedded server comes back and goes with its users."""

from tests.crash.safeguards.mutant import Mutant, mutant

PROCESS, EMBEDDED = "shared/process.py", "shared/embedded.py"
STOPPING, SERVING = "tests/db/test_stopping.py", "tests/crash/test_embedded.py"
KILLED = "tests/crash/test_eval_killed.py"

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
        "bool(psutil.pid_exists(pid)) and not _is_unburied(pid) and not _is_other(pid)\n",
        "bool(psutil.pid_exists(pid)) and not _is_other(pid)\n",
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
        "        if is_thrown:\n",
        "        if path.name:\n",
        "tests/crash/test_eval_killed.py::test_kept_home_of_a_killed_evaluation_stays_and_its_server_stops",
    ),
    mutant(
        "evaluation: the server of a kept home that somebody looks at is not stopped",
        "services/console/evaluation/home.py",
        "has_no_user=is_thrown",
        "has_no_user=True",
        f"{KILLED}::test_server_of_a_kept_home_that_somebody_looks_at_outlives_the_evaluation",
    ),
    mutant(
        "evaluation: no process is ended that only has the number of an abandoned server",
        EMBEDDED,
        "    if pid is not None and _is_server_of(pid, data):\n        server, _ = start_embedded_server(home)\n",
        "    if pid is not None and psutil.pid_exists(pid):\n        server, _ = start_embedded_server(home)\n",
        f"{KILLED}::test_process_that_has_the_number_of_an_abandoned_server_is_let_alone",
    ),
    mutant(
        "embedded: a process that has the number of an ended server is not taken for it",
        EMBEDDED,
        "            _forget_ended(server)\n        _start(server, server.start)\n",
        "            pass\n        _start(server, server.start)\n",
        f"{SERVING}::test_process_that_has_the_number_of_an_ended_server_is_not_taken_for_it",
    ),
)
