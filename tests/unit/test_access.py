"""What a caller is told of what is not theirs: the same as of what does not exist."""

import pytest

from services.query.access import Access
from services.query.store import CollectionRow, GrantedCollection
from shared.errors import Forbidden, NotFound

OURS = GrantedCollection(CollectionRow(1, "ours", 1), "read")


@pytest.fixture
def access() -> Access:
    return Access(key_id=1, everywhere=None, granted=(OURS,))


def test_what_is_absent_and_what_is_not_yours_look_the_same(access):
    with pytest.raises(NotFound):
        access.require(2, "read")
    with pytest.raises(NotFound):
        access.writable("theirs")
    with pytest.raises(NotFound):
        access.readable(["ours", "theirs"])


def test_who_may_read_is_told_that_more_is_forbidden(access):
    access.require(1, "read")
    with pytest.raises(Forbidden):
        access.require(1, "write")
    with pytest.raises(Forbidden):
        access.writable("ours")
    with pytest.raises(Forbidden):
        access.require_everywhere("read")
