"""A sample of `stops`. How fast is for the full part to say: here a lease runs for so long that only giving back helps."""

import pytest

from tests.crash import stops
from tests.crash.cluster import running_cluster
from tests.openai_server import serving

LEASE_SECONDS = 600


@pytest.mark.timeout(240)
async def test_work_in_hand_is_given_back_though_its_process_is_told_twice_to_stop(tmp_path):
    async with running_cluster() as cluster:
        with serving() as provider:
            places = stops.Places(tmp_path, cluster, provider)
            async with places.system(
                ASKBOX_LEASE_SECONDS=str(LEASE_SECONDS), ASKBOX_STOP_SECONDS="0.5", ASKBOX_LLM_MODEL="test-chat"
            ) as system:
                await system.add("ingester")
                (system.inbox / "gate.md").write_text(stops.GATE)
                stopped = await stops.embedder_with_a_silent_provider(system, "embedder", stops.TWICE)
                assert stopped.code == 0, system.tail()
                stopped = await stops.query_in_mid_stream(system, "query", stops.TWICE)
                assert stopped.code == 0, system.tail()
                stopped = await stops.query_with_viewers(system, "query with viewers")
                assert stopped.code == 0, system.tail()
