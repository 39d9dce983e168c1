"""The parser's sandbox, migrations and index builds."""

from tests.crash.safeguards.mutant import Mutant, mutant

SANDBOX, SERVER = "services/ingester/sandbox.py", "services/ingester/parse_server.py"
MIGRATIONS, DATABASE, EMBEDDER_SQL = "shared/migrations.py", "shared/database.py", "services/embedder/statements.sql"
WALLS, CHILDREN = "tests/crash/test_walls.py", "tests/crash/test_sandbox.py"
MIGRATING, BUILDS, DUE = "tests/db/test_migrations.py", "tests/db/test_index_builds.py", "tests/db/test_index_jobs.py"
EVERY_WALL = f"{WALLS}::test_every_wall_that_needs_nothing_of_the_system_stands"

MUTANTS: tuple[Mutant, ...] = (
    # -- the sandbox ------------------------------------------------------------------------------------------------
    mutant(
        "sandbox: memory is bounded",
        SERVER,
        '        (resource.RLIMIT_AS, int(request["memory_bytes"])),\n',
        "",
        EVERY_WALL,
    ),
    mutant(
        "sandbox: processor time is bounded",
        SERVER,
        "        (resource.RLIMIT_CPU, seconds),\n",
        "",
        EVERY_WALL,
    ),
    mutant(
        "sandbox: no file is written",
        SERVER,
        "        (resource.RLIMIT_FSIZE, 0),\n",
        "",
        EVERY_WALL,
    ),
    mutant(
        "sandbox: time is bounded",
        SANDBOX,
        "            async with asyncio.timeout(left):",
        "            async with asyncio.timeout(None):",
        EVERY_WALL,
    ),
    mutant(
        "sandbox: output is bounded",
        SANDBOX,
        "        if seen > output_bytes_max:\n",
        "        if seen < 0:\n",
        f"{WALLS}::test_child_that_writes_without_end_is_stopped",
    ),
    mutant(
        "sandbox: the environment is empty",
        SANDBOX,
        '                    env={"LANG": "C.UTF-8", "TOKENIZERS_PARALLELISM": "false"},\n',
        "",
        f"{CHILDREN}::test_child_sees_no_environment_and_no_network",
    ),
    mutant(
        "sandbox: the network is left",
        SERVER,
        "    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)\n",
        "    return callable(unshare)\n",
        f"{CHILDREN}::test_child_sees_no_environment_and_no_network",
    ),
    mutant(
        "sandbox: no new privileges are had",
        SERVER,
        '"privileges": _prctl(PR_SET_NO_NEW_PRIVS, 1)}',
        '"privileges": True}',
        EVERY_WALL,
    ),
    mutant(
        "sandbox: files are out of reach",
        "services/ingester/landlock.py",
        "    return ruleset is not None and _call(_RESTRICT_SELF, ruleset, 0) == 0\n",
        "    return ruleset is not None\n",
        f"{CHILDREN}::test_child_that_was_taken_over_reaches_neither_files_nor_its_ingester",
    ),
    mutant(
        "sandbox: a child dies with its ingester",
        SERVER,
        "    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n    seconds",
        "    seconds",
        f"{WALLS}::test_child_dies_with_its_ingester_though_its_file_does_not_end",
    ),
    mutant(
        "sandbox: a child can name no other process",
        SANDBOX,
        '            case {"pid": int(pid)} if child.pid is None:',
        '            case {"pid": int(pid)}:',
        f"{CHILDREN}::test_child_cannot_have_another_process_killed",
    ),
    mutant(
        "sandbox: a field of another kind is refused",
        "services/ingester/replies.py",
        "    if not all(is_right(told[name]) for name, is_right in checks.items()):\n",
        "    if not checks:\n",
        "tests/unit/test_replies.py::test_field_of_another_kind_is_refused_for_good",
    ),
    mutant(
        "sandbox: a line that is no object is refused",
        "services/ingester/replies.py",
        "    except (ValueError, RecursionError):\n        raise refuse() from None\n    if not isinstance(message, dict):",
        "    except KeyError:\n        raise refuse() from None\n    if not isinstance(message, dict):",
        "tests/unit/test_replies.py::test_line_of_another_kind_is_refused_for_good",
    ),
    mutant(
        "sandbox: chunks are counted on",
        "services/ingester/ingest.py",
        "                if not isinstance(item, Chunk) or item.ordinal != chunk_count:\n",
        "                if not isinstance(item, Chunk):\n",
        "tests/db/test_staging_lies.py::test_chunks_that_fit_no_document_fail_their_file_at_once",
    ),
    mutant(
        "sandbox: what the database refuses is not tried again",
        "services/ingester/ingest.py",
        "            if isinstance(error, UNPUBLISHABLE_ERRORS):\n",
        "            if not isinstance(error, Exception):\n",
        "tests/db/test_staging_lies.py::test_chunks_that_fit_no_document_fail_their_file_at_once",
    ),
    mutant(
        "sandbox: archives that expand without end are refused",
        "services/ingester/parsing/archive.py",
        "        if unpacked > UNPACKED_BYTES_MAX or unpacked > max(RATIO_FLOOR_BYTES, RATIO_MAX * len(content)):\n",
        "        if unpacked < 0:\n",
        "tests/unit/test_parsing_docx.py::test_bomb_is_refused_before_it_is_unpacked",
    ),
    # -- migrations -------------------------------------------------------------------------------------------------
    mutant(
        "migrations: an edited one is refused",
        MIGRATIONS,
        "        if _sum(path) != known:\n",
        "        if not known:\n",
        f"{MIGRATING}::test_edited_migration_is_refused_by_name",
    ),
    mutant(
        "migrations: a database of a newer version is refused",
        MIGRATIONS,
        "        if not path.exists():\n",
        "        if not path.exists():\n            continue\n        if not identifier:\n",
        f"{MIGRATING}::test_database_of_a_newer_version_is_refused_by_name",
    ),
    mutant(
        "migrations: processes that start together wait for one another",
        MIGRATIONS,
        '        guard.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))\n',
        "",
        f"{MIGRATING}::test_processes_that_start_together_migrate_once",
        f"{MIGRATING}::test_migration_waits_for_another_one",
    ),
    mutant(
        "migrations: the lock row of a killed process is removed",
        MIGRATIONS,
        "        backend.break_lock()",
        "        backend.list_tables()",
        f"{MIGRATING}::test_lock_row_of_a_killed_process_does_not_block",
        hangs=True,
    ),
    # -- indexes ----------------------------------------------------------------------------------------------------
    mutant(
        "indexes: one build at a time",
        EMBEDDER_SQL,
        "SELECT pg_try_advisory_lock(0x61736B696478) AS is_alone",
        "SELECT pg_try_advisory_lock_shared(0x61736B696478) AS is_alone",
        f"{BUILDS}::test_build_of_a_killed_worker_goes_on_and_nobody_begins_it_again",
        f"{BUILDS}::test_collections_that_outgrow_together_are_built_one_after_the_other",
        hangs=True,
    ),
    mutant(
        "indexes: an invalid leftover is dropped first",
        EMBEDDER_SQL,
        "      NOT i.is_valid\n      OR i.model_id <> k.embedding_model_id\n",
        "      i.model_id <> k.embedding_model_id\n",
        f"{BUILDS}::test_leftover_of_a_cancelled_build_is_dropped_and_built_again",
    ),
    mutant(
        "indexes: an invalid leftover does not count as one",
        EMBEDDER_SQL,
        "i.model_id IS NOT DISTINCT FROM w.model_id AND i.is_valid\n",
        "i.model_id IS NOT DISTINCT FROM w.model_id\n",
        "tests/db/test_due_indexes.py::test_index_that_a_broken_build_left_behind_is_dropped_and_wanted_in_one_turn",
    ),
    mutant(
        "indexes: none is built while the collection is filled",
        EMBEDDER_SQL,
        "        WHERE v.collection_id = k.id AND v.state IN ('queued', 'parsing', 'embedding')\n",
        "        WHERE v.collection_id = k.id AND v.state = 'unknown'\n",
        f"{DUE}::test_nothing_is_built_while_the_collection_is_filled",
    ),
    mutant(
        "indexes: a build that takes too long is left alone for a while",
        EMBEDDER_SQL,
        "AND d.subject_id = k.id AND d.died_at > now() - $4::interval\n",
        "AND d.subject_id = k.id AND d.died_at > now() + $4::interval\n",
        f"{BUILDS}::test_build_that_takes_too_long_is_buried_and_left_alone_for_a_while",
    ),
    mutant(
        "indexes: a zombie writes no statistics",
        "services/embedder/index.py",
        "            await queue.hold_lease(conn, job.lease_id)\n            await reach(Failpoint.STATISTICS_WRITTEN)\n",
        "            await reach(Failpoint.STATISTICS_WRITTEN)\n",
        f"{BUILDS}::test_worker_that_lost_its_lease_writes_no_statistics",
    ),
    mutant(
        "indexes: a zombie lexes nothing anew",
        "services/embedder/index.py",
        "                if is_more:\n                    await queue.hold_lease(conn, job.lease_id)\n",
        "",
        "tests/db/test_lexing_anew.py::test_who_lost_the_lease_lexes_nothing_and_the_next_goes_on",
    ),
    mutant(
        "indexes: DDL is made of whole numbers only",
        "services/embedder/index_ddl.py",
        "    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= number_max:\n",
        "    if value is None:\n",
        "tests/unit/test_index_ddl.py::test_ddl_is_made_of_whole_numbers_only",
    ),
    # -- connections ------------------------------------------------------------------------------------------------
    mutant(
        "connections: a role that sees through the walls is refused",
        DATABASE,
        "SELECT rolsuper OR rolbypassrls FROM pg_roles",
        "SELECT rolsuper AND NOT rolsuper FROM pg_roles",
        "tests/db/test_handlers.py::test_role_that_sees_through_the_walls_is_refused",
    ),
    mutant(
        "connections: each takes its role",
        DATABASE,
        '    return settings | ({"role": role} if role else {})\n',
        "    return settings\n",
        "tests/db/test_handlers.py::test_role_that_sees_through_the_walls_is_refused",
        "tests/db/test_handlers.py::test_every_connection_takes_its_role",
    ),
    mutant(
        "connections: a deadlock's victim tries again",
        DATABASE,
        "    asyncpg.DeadlockDetectedError,\n",
        "",
        "tests/db/test_handlers.py::test_victim_of_a_deadlock_tries_again",
    ),
)
