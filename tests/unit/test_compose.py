"""compose.yaml and the image: no engine runs here, so what one would refuse, or run unsafely, is looked for in the files."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile

from services.embedder.settings import EmbedderSettings
from services.ingester.settings import IngesterSettings
from services.query.settings import QuerySettings
from shared.settings import PREFIX, WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text(encoding="utf-8")
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("askbox:")}
PROCESSES = ("ingester", "embedder", "query")
ONCE = {name for name, service in SERVICES.items() if service["restart"] == "no"}
PASSWORDS = ("POSTGRES_PASSWORD", "WORKER_PASSWORD", "EMBEDDER_PASSWORD", "READER_PASSWORD")
_CONDITIONS = {"service_healthy", "service_completed_successfully"}


def interpolated(text: object) -> str:
    """What compose makes of a value where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text)).replace("$$", "$")


def test_every_dependency_names_a_service_that_can_fulfil_it() -> None:
    for name, service in SERVICES.items():
        for other, dependency in service.get("depends_on", {}).items():
            assert dependency["condition"] in _CONDITIONS, name
            assert (other in ONCE) == (dependency["condition"] == "service_completed_successfully"), (name, other)


def test_no_process_starts_before_the_migration() -> None:
    for name in PROCESSES:
        assert "migrate" in SERVICES[name]["depends_on"]
    assert SERVICES["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}


def test_everything_that_runs_on_has_a_health_check_and_what_runs_once_has_none() -> None:
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        if name in ONCE:
            assert check == {"disable": True}
        else:
            assert check["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


def test_database_counts_as_healthy_only_by_address() -> None:
    # The server that initialises a new volume answers on its socket.
    assert "--host=127.0.0.1" in SERVICES["db"]["healthcheck"]["test"]


def test_every_service_can_be_scaled_that_has_no_port() -> None:
    assert not [name for name, service in SERVICES.items() if "container_name" in service or "hostname" in service]
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"query", "jaeger"}


def test_nothing_is_published_beyond_this_machine_by_default() -> None:
    for name in ("query", "jaeger"):
        assert all(interpolated(port).startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


def test_images_are_pinned_and_ours_has_the_version_of_the_package() -> None:
    for service in SERVICES.values():
        tag = service["image"].rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d+\.\d+", tag), service["image"]
    assert {service["image"] for service in OURS.values()} == {f"askbox:{PROJECT['version']}"}


def test_one_service_builds_the_image_and_nobody_looks_for_it_elsewhere() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]
    assert {name: service["pull_policy"] for name, service in OURS.items() if name != "migrate"} == dict.fromkeys(
        OURS.keys() - {"migrate"}, "never"
    )
    assert all(name == "migrate" or "migrate" in service["depends_on"] for name, service in OURS.items())


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "stop_grace_period", "logging"} <= service.keys()
    if name != "inbox":
        assert int(interpolated(service["user"]).partition(":")[0]) > 0
        assert "cap_add" not in service


def test_the_only_root_has_no_network_and_two_rights() -> None:
    roots = [name for name, service in SERVICES.items() if service.get("user") == "0:0"]
    assert roots == ["inbox"]
    assert SERVICES["inbox"]["network_mode"] == "none"
    assert SERVICES["inbox"]["cap_add"] == ["CHOWN", "DAC_OVERRIDE"]
    assert not set(SERVICES["inbox"]["environment"]) - {"INGESTER_USER"}


def test_opener_of_unknown_files_and_the_database_have_no_way_out() -> None:
    for name in ("ingester", "db", "migrate"):
        assert all(COMPOSE["networks"][network]["internal"] for network in SERVICES[name]["networks"])


def test_a_process_has_the_password_of_its_own_login_only() -> None:
    logins = {"migrate": "askbox", "ingester": "askbox_worker", "embedder": "askbox_embedder", "query": "askbox_reader"}
    for name, login in logins.items():
        environment = SERVICES[name]["environment"]
        assert environment["ASKBOX_DATABASE_URL"].startswith(f"postgresql://{login}@db:")
        assert [environment[password] for password in PASSWORDS] == [""] * len(PASSWORDS)
    assert len({SERVICES[name]["environment"]["PGPASSWORD"] for name in logins}) == len(logins)
    for name in ("migrate", "ingester"):  # they ask no provider, and .env may hold the key
        assert SERVICES[name]["environment"]["OPENAI_API_KEY"] == ""


def test_every_login_is_made_and_the_reader_belongs_to_no_other_role() -> None:
    statements = COMPOSE["configs"]["logins"]["content"]
    for role in ("askbox_owner", "askbox_worker", "askbox_reader", "askbox_embedder"):
        assert f"CREATE ROLE {role} " in statements
    assert re.search(r"CREATE ROLE askbox_reader LOGIN PASSWORD :'reader_password';", statements)
    passwords = re.findall(r"PASSWORD :'(\w+)'", statements)
    assert len(passwords) == len(set(passwords)) == 3
    for variable in re.findall(r"\\getenv \w+ (\w+)", statements):
        assert variable in SERVICES["db"]["environment"]


def test_environment_names_only_what_the_processes_read() -> None:
    settings = (EmbedderSettings, IngesterSettings, QuerySettings, WorkerSettings)
    known = {f"{PREFIX}{name.upper()}" for cls in settings for name in cls.model_fields}
    for name in (*PROCESSES, "migrate"):
        ours = {variable for variable in SERVICES[name]["environment"] if variable.startswith(PREFIX)}
        assert ours <= known, name


def test_workers_have_time_to_finish() -> None:
    for name in PROCESSES:
        assert (
            int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
            > WorkerSettings.model_fields["stop_seconds"].default
        )


def test_everything_named_is_declared_and_everything_declared_is_used() -> None:
    used: dict[str, set[str]] = {"networks": set(), "volumes": set(), "configs": set()}
    for service in SERVICES.values():
        used["networks"] |= set(service.get("networks", []))
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./"}
        used["configs"] |= {config["source"] for config in service.get("configs", [])}
    for kind, names in used.items():
        assert names == COMPOSE[kind].keys(), kind


def test_data_of_postgres_18_lies_where_its_image_wants_it() -> None:
    assert SERVICES["db"]["volumes"] == ["database:/var/lib/postgresql"]


def test_containers_run_what_the_procfile_runs() -> None:
    processes = parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8")).processes
    assert {name: f"exec {' '.join(SERVICES[name]['command'])}" for name in PROCESSES} == dict(processes)


def test_every_module_that_a_container_runs_exists() -> None:
    words = [
        word for service in OURS.values() for word in (*service["command"], *service["healthcheck"].get("test", []))
    ]
    modules = {word for word in words if re.fullmatch(r"services\.[\w.]+", word)}
    assert modules >= {"services.query", "services.console.alive"}
    assert all(importlib.util.find_spec(module) for module in modules)


def test_image_runs_as_an_ordinary_user_without_a_shell_in_between() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\S+)", final, re.MULTILINE) == ["10001:10001"]
    commands = re.findall(r"\bCMD (.+)$", final, re.MULTILINE)
    assert len(commands) == 2
    assert all(json.loads(command)[0] == "python" for command in commands)
    assert "HF_HUB_OFFLINE=1" in final


def test_build_sees_what_the_package_is_made_of_and_nothing_else() -> None:
    lines = (ROOT / "services" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert allowed == {"LICENSE", "Procfile", "README.md", "pyproject.toml", "services", "shared", "sql"}
    assert all((ROOT / name).exists() for name in allowed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files that are installed where there is no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("LICENSE", "Procfile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("services", "shared", "sql"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_installation_without_a_checkout_has_every_file(wheel: set[str]) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for name in ("services", "shared", "sql")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("Dockerfile")
    }
    assert wanted - wheel == set()


def test_installation_without_a_checkout_has_the_procfile(wheel: set[str]) -> None:
    assert [name for name in wheel if name.endswith("/data/share/askbox/Procfile")]
