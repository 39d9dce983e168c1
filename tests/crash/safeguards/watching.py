"""Safeguards of who watches the work: little is looked at, nothing of others is shown, and one bad look ends nobody's watching."""

from tests.crash.safeguards.mutant import Mutant, mutant

WATCH, PROGRESS, SQL = "services/query/watch.py", "services/query/progress.py", "services/query/progress.sql"
WATCHING, LOOKING = "tests/api/test_watching.py", "tests/db/test_progress.py"
SCOPED = f"{LOOKING}::test_statements_stay_inside_the_scope_by_themselves"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "watching: looks take a fifth of the time",
        WATCH,
        "started + max(LOOK_SECONDS, (1 + REST_RATIO) * seconds)",
        "started + max(LOOK_SECONDS, seconds)",
        f"{WATCHING}::test_look_that_takes_long_is_followed_by_a_rest_of_several_times_as_long",
    ),
    mutant(
        "watching: a look that fails is told, and ends the stream",
        WATCH,
        "                for viewer in self._viewers:\n                    viewer.end(error)\n",
        "                error.add_note('')\n",
        f"{WATCHING}::test_database_that_is_gone_ends_the_stream_with_a_problem",
    ),
    mutant(
        "watching: a process that stops ends every stream",
        WATCH,
        "        for viewer in self._viewers:\n            viewer.end(None)\n",
        "",
        f"{WATCHING}::test_streams_end_when_the_process_stops",
    ),
    mutant(
        "watching: what is listed stays inside the scope",
        SQL,
        "    WHERE collection_id = ANY ($1::integer[]) AND state = stage.state AND",
        "    WHERE $1::integer[] IS NOT NULL AND state = stage.state AND",
        SCOPED,
    ),
    mutant(
        "watching: what has ended stays inside the scope",
        SQL,
        "  WHERE collection_id = ANY ($1::integer[]) AND ready_at > now()",
        "  WHERE $1::integer[] IS NOT NULL AND ready_at > now()",
        SCOPED,
    ),
)
