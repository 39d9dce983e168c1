"""What is spliced into SQL is a number, and nothing else."""

import itertools

import pytest

from services.embedder.index_ddl import DIMENSION_MAX, SearchIndex, create_statement, drop_statement
from services.query import store


@pytest.mark.parametrize("number", ["1; DROP TABLE chunk", "1", 1.0, True, 0, -1, 2**31, None])
@pytest.mark.parametrize("field", ["collection_id", "model_id", "dimension"])
def test_ddl_is_made_of_whole_numbers_only(field: str, number: object):
    fields = {"collection_id": 1, "model_id": 1, "dimension": 1, field: number}
    if field == "model_id" and number is None:
        return  # the text's index
    with pytest.raises(ValueError, match="is not a whole number from 1 to"):
        create_statement(SearchIndex(**fields, is_wanted=True))
    if field != "dimension":
        with pytest.raises(ValueError, match="is not a whole number from 1 to"):
            drop_statement(SearchIndex(**fields, is_wanted=False))


@pytest.mark.parametrize("dimension", [0, -1, DIMENSION_MAX + 1, "384) --", None])
def test_question_is_spliced_with_a_dimension_only(dimension: object):
    with pytest.raises(ValueError, match="is not a dimension"):
        store.retrieve_statement(dimension)


def test_question_is_spliced_in_one_place():
    for is_hybrid in (True, False):
        statements = {store.retrieve_statement(dimension, is_hybrid=is_hybrid) for dimension in (16, 384)}
        lines = itertools.zip_longest(*(statement.splitlines() for statement in statements))
        assert len([both for both in lines if len(set(both)) > 1]) == 1
    assert store.DIMENSION_MAX == DIMENSION_MAX
