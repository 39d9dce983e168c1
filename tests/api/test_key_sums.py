"""What lies in the database opens nothing."""

import hashlib

from services.console import keys


async def test_what_is_stored_is_the_sum_of_the_secret(owner):
    made = await keys.create_key(owner, "one", "admin", [])
    assert await owner.fetchval("SELECT sha256 FROM askbox.api_key") == hashlib.sha256(made.encode()).digest()
    rotated = await keys.rotate_key(owner, "one")
    assert await owner.fetchval("SELECT sha256 FROM askbox.api_key") == hashlib.sha256(rotated.encode()).digest()
    assert len({made, rotated}) == 2
