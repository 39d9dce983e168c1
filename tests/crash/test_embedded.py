"""The embedded server and its users: it stops with the last one, also when another was killed."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shared.embedded import start_embedded_server

KILLED = """
import os, sys
from pathlib import Path
from shared.embedded import start_embedded_server
server, url = start_embedded_server(Path(sys.argv[1]))
print(server.get_pid(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.timeout(60)
def test_server_of_a_killed_user_stops_with_the_next_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("embedded")
    for folder in (home, *home.parents):
        if folder.stat().st_uid == Path.home().stat().st_uid and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(home)], capture_output=True, text=True, check=False)
    pid = int(killed.stdout)
    assert psutil.pid_exists(pid)
    server, _ = start_embedded_server(home)
    assert server.get_pid() == pid
    server.cleanup()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
