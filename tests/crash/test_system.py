"""The harness itself: its processes come back, its faults are faults, its oracle sees."""

import asyncio

import pytest

from tests.crash.cluster import running_cluster
from tests.crash.picture import Picture, differences
from tests.crash.system import running_system
from tests.openai_server import serving

NOTES = {"inbox:a.md": "# A\n\nThe gate opens at nine.\n", "inbox:b.md": "# B\n\nThe gate closes at ten.\n"}


@pytest.mark.timeout(240)
async def test_files_are_ready_although_every_process_and_postgres_are_killed(tmp_path):
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(tmp_path, cluster, provider) as system:
                for kind in ("embedder", "ingester", "query"):
                    await system.add(kind)
                await system.wait_ready()
                (system.inbox / "a.md").write_text(NOTES["inbox:a.md"])
                for name in system.members:
                    await system.kill(name)
                await cluster.stop_hard()
                (system.inbox / "b.md").write_text(NOTES["inbox:b.md"])
                await asyncio.sleep(0.2)
                await cluster.start()
                picture = await system.wait_quiet(lambda seen: len(seen.documents) == 2)
                assert picture.remains == {}, system.tail()
                assert {uri for _, uri in picture.documents} == NOTES.keys(), system.tail()
                assert await system.check() == []
                await system.wait_ready()
                answer = await system.request(
                    system.members["query"], "POST", "/query", json={"question": "When does the gate open?"}
                )
                assert answer.json()["answered"], answer.text
                codes = [await system.remove(name) for name in list(system.members)]
                assert codes == [0, 0, 0]


def test_oracle_sees_what_is_lost_too_much_or_different():
    one = {("default", "inbox:a.md"): ("aa", "[1]")}
    assert differences(Picture(one), Picture(one)) == []
    assert differences(Picture(), Picture(one)) == ["lost: ('default', 'inbox:a.md')"]
    assert differences(Picture(one), Picture()) == ["too much: ('default', 'inbox:a.md')"]
    assert "other chunks" in differences(Picture({("default", "inbox:a.md"): ("aa", "[2]")}), Picture(one))[0]
    assert "other bytes" in differences(Picture({("default", "inbox:a.md"): ("bb", "[1]")}), Picture(one))[0]
    assert differences(Picture(one, {"lease": 2}), Picture(one)) == ["left over: 2 × lease"]
