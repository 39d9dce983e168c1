"""Questions that lean on others, and those that come in OpenAI's form."""

from tests.crash.safeguards.mutant import Mutant, mutant

ROUTE, SCHEMA, ACCESS = (
    "services/query/routes/openai.py",
    "services/query/openai_schema.py",
    "services/query/access.py",
)
PROBLEMS, ANSWER, REWRITE = "services/query/problems.py", "services/query/answer.py", "services/query/rewrite.py"
V1, CONVERSATIONS, FOLLOW_UPS = (
    "tests/api/test_openai_api.py",
    "tests/api/test_conversations.py",
    "tests/unit/test_followup.py",
)

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "v1: what would change the meaning is refused",
        SCHEMA,
        "        self._refuse()\n",
        "",
        f"{V1}::test_what_would_change_the_meaning_is_refused_by_name",
    ),
    mutant(
        "v1: one last event",
        ROUTE,
        "                yield _event(DONE)\n",
        "                yield _event(DONE)\n                yield _event(DONE)\n",
        f"{V1}::test_stream_ends_with_done_and_tells_no_usage_that_nobody_asked_for",
    ),
    mutant(
        "v1: what the model takes back is said to be none",
        ROUTE,
        "    if shown.strip() != answer.text:\n",
        "    if not shown.strip():\n",
        f"{V1}::test_answer_that_the_model_takes_back_is_said_to_be_none",
    ),
    mutant(
        "v1: markers are found where they stand",
        ANSWER,
        "mark.moved(len(text.lstrip()) - len(text))",
        "mark.moved(0)",
        f"{V1}::test_markers_in_code_and_behind_white_space_keep_their_places",
    ),
    mutant(
        "v1: a key that looks like ours is checked where askbox is open",
        ACCESS,
        "not (may_be_placeholder and not key.startswith(KEY_PREFIX))",
        "not may_be_placeholder",
        f"{V1}::test_wrong_key_is_refused_and_a_placeholder_only_where_keys_exist",
    ),
    mutant(
        "v1: errors have the form that its clients read",
        PROBLEMS,
        "    if is_openai(path):\n        return openai_error",
        '    if path == "/v1":\n        return openai_error',
        f"{V1}::test_every_error_under_v1_has_their_form",
    ),
    mutant(
        "conversations: a model that takes too long to rewrite is not waited for",
        REWRITE,
        "            asyncio.timeout(REWRITE_SECONDS_MAX),\n",
        "            asyncio.timeout(None),\n",
        f"{CONVERSATIONS}::test_rewriting_that_takes_too_long_is_not_waited_for",
        hangs=True,
    ),
    mutant(
        "conversations: what is no question is not looked for",
        REWRITE,
        "    if len(lines) != 1:\n",
        "    if not lines:\n",
        f"{CONVERSATIONS}::test_rewriting_that_is_no_question_leaves_the_rule",
    ),
    mutant(
        "conversations: no words of an answer are looked for",
        "services/query/followup.py",
        'for turn in history if turn.role == "user"]',
        "for turn in history]",
        f"{FOLLOW_UPS}::test_question_that_points_back_is_joined_with_what_it_points_at",
    ),
    mutant(
        "conversations: a question does not outgrow the model",
        ANSWER,
        "        if meant_tokens > self._model.tokenizer.tokens_max:\n",
        "        if meant_tokens < 0:\n",
        f"{CONVERSATIONS}::test_question_that_grew_too_long_is_looked_for_as_it_was_asked",
    ),
    mutant(
        "conversations: a question that only excludes is not looked for",
        ANSWER,
        "        meant = written if written and read_terms(written).text else",
        "        meant = written if written else",
        f"{CONVERSATIONS}::test_rewriting_that_is_no_question_leaves_the_rule",
    ),
    mutant(
        "conversations: an earlier message is read as far as a question may be long",
        "services/query/openai_schema.py",
        "turn.content[:QUESTION_CHARACTERS_MAX]",
        "turn.content",
        "tests/api/test_openai_api.py::test_earlier_messages_are_read_as_far_as_a_question_may_be_long",
    ),
    mutant(
        "requests: the name of what is wrong is told shortly",
        "services/query/problems.py",
        "one_line(param, PARAM_CHARACTERS_MAX)",
        "one_line(param, 10**7)",
        "tests/api/test_openai_api.py::test_name_of_what_is_wrong_is_told_shortly",
    ),
)
