"""Every kind of late write, and sweepers that race with a completion; the whole of it is `python -m tests.crash zombies`."""

import pytest

from tests.crash.late_writes import KINDS, race_one, rigged, wake_one

RACES = 9


@pytest.mark.parametrize("name", KINDS)
async def test_late_write_is_rejected(url, tmp_path, name):
    async with rigged(url, tmp_path / "scanned") as rig:
        assert await wake_one(rig, name, is_finished=True) is None
        assert await wake_one(rig, name, is_finished=False) is None


async def test_expired_lease_is_either_completed_or_swept(url, tmp_path):
    async with rigged(url, tmp_path / "scanned") as rig:
        for number in range(RACES):
            _, complaint = await race_one(rig, sweepers=1 + number % 3)
            assert complaint is None
