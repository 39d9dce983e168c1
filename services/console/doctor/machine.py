"""The machine: processor, memory, disk, shared memory, the port."""

import errno
import platform
import shutil
import socket
import tempfile
from pathlib import Path

import httpx2
import psutil

from services.console.doctor.findings import Finding, fail, ok, size, warn
from services.console.doctor.settings import DoctorSettings

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
# What numpy's and torch's wheels for x86-64 are compiled for: without these a process ends with SIGILL.
CPU_FLAGS_NEEDED = frozenset({"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"})
CPU_FLAGS_FAST = frozenset({"avx2", "fma"})
# Two processes hold a model, the ingester its parsers, Postgres its cache.
MEMORY_BYTES_WANTED = 3 * 1024**3
DISK_BYTES_NEEDED = 256 * 1024**2
DISK_BYTES_WANTED = 2 * 1024**3
SHARED_BYTES_WANTED = 64 * 1024**2
ANSWER_SECONDS = 3.0


def look_at_port(settings: DoctorSettings) -> list[Finding]:
    """Is the port free, or used by askbox itself?"""
    host, port = settings.http_host, settings.http_port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_askbox(host, port):
            return [ok("port", f"askbox answers at {host}:{port}")]
        found = f"{host}:{port} cannot be used: {error.strerror or error}"
        return [fail("port", found, "stop what listens there, or set ASKBOX_HTTP_PORT or ASKBOX_HTTP_HOST")]
    return [ok("port", f"{host}:{port} is free")]


def _is_askbox(host: str, port: int) -> bool:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    try:
        pages = httpx2.get(f"http://{name}:{port}/openapi.json", timeout=ANSWER_SECONDS, trust_env=False)
        return bool(pages.json()["info"]["title"] == "askbox")
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return False


def look_at_cpu(_settings: DoctorSettings) -> list[Finding]:
    """Has the processor what the wheels were compiled for?"""
    return [judge_cpu(platform.machine(), CPU_INFO.read_text() if CPU_INFO.exists() else "")]


def judge_cpu(machine: str, cpu_info: str) -> Finding:
    """Judge a processor by what Linux tells of it."""
    lines = [line for line in cpu_info.splitlines() if line.startswith("flags")]
    if machine not in {"x86_64", "AMD64"} or not lines:
        return ok("processor", machine)
    flags = set(lines[0].split())
    if missing := CPU_FLAGS_NEEDED - flags:
        found = f"it has no {', '.join(sorted(missing))}: the models' libraries end with an illegal instruction"
        return fail("processor", found, "use another machine; in a virtual one, pass the host's processor through")
    if missing := CPU_FLAGS_FAST - flags:
        return warn(
            "processor", f"it has no {', '.join(sorted(missing))}", "models run on it, but several times slower"
        )
    return ok("processor", f"{machine} with {', '.join(sorted(CPU_FLAGS_FAST))}")


def look_at_memory(_settings: DoctorSettings) -> list[Finding]:
    """Is there memory for two models and a database?"""
    total = psutil.virtual_memory().total
    limit = MEMORY_LIMIT.read_text().strip() if MEMORY_LIMIT.exists() else "max"
    if limit.isdecimal() and int(limit) < total:
        return [judge_memory(int(limit), "this container may use")]
    return [judge_memory(total, "this machine has")]


def judge_memory(total: int, who: str) -> Finding:
    """Judge a number of bytes of memory."""
    found = f"{who} {size(total)}"
    if total < MEMORY_BYTES_WANTED:
        return warn(
            "memory", found, f"everything on one machine wants {size(MEMORY_BYTES_WANTED)}: processes may be killed"
        )
    return ok("memory", found)


def look_at_disk(settings: DoctorSettings) -> list[Finding]:
    """Is there room where the database and temporary files lie?"""
    places = {"disk of ASKBOX_HOME": nearest(settings.home), "disk of temporary files": Path(tempfile.gettempdir())}
    return [judge_disk(name, path, shutil.disk_usage(path).free) for name, path in places.items()]


def judge_disk(name: str, path: Path, free: int) -> Finding:
    """Judge a number of free bytes."""
    found = f"{size(free)} free at {path}"
    if free < DISK_BYTES_NEEDED:
        return fail(name, found, f"free at least {size(DISK_BYTES_WANTED)}: Postgres stops on a full disk")
    if free < DISK_BYTES_WANTED:
        return warn(name, found, "free some: originals, texts and vectors are stored here")
    return ok(name, found)


def nearest(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def look_at_shared_memory(settings: DoctorSettings) -> list[Finding]:
    """Can an embedded Postgres share memory between its processes?"""
    if settings.database_url is not None or platform.system() != "Linux":
        return []
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    return [judge_shared_memory(free)]


def judge_shared_memory(free: int) -> Finding:
    """Judge a number of free bytes of shared memory."""
    found = f"{size(free)} free at {SHARED_MEMORY}"
    if free < SHARED_BYTES_WANTED:
        return warn("shared memory", found, "give it more (in a container: shm_size), or index builds may fail")
    return ok("shared memory", found)
