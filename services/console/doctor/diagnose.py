"""All checks, in the order in which a person reads them."""

from services.console.doctor.database import SECONDS_MAX as DATABASE_SECONDS
from services.console.doctor.database import look_at_database
from services.console.doctor.findings import Check, Finding, run_checks
from services.console.doctor.folders import look_at_file_events, look_at_home, look_at_inbox
from services.console.doctor.machine import (
    look_at_cpu,
    look_at_disk,
    look_at_memory,
    look_at_port,
    look_at_shared_memory,
)
from services.console.doctor.peers import (
    OCR_SECONDS,
    PLUGINS_SECONDS,
    VOCABULARY_SECONDS,
    WALLS_SECONDS,
    look_at_model,
    look_at_ocr,
    look_at_plugins,
    look_at_providers,
    look_at_traces,
    look_at_vocabulary,
    look_at_walls,
)
from services.console.doctor.settings import DoctorSettings

CHECKS = (
    Check("processor", look_at_cpu),
    Check("memory", look_at_memory),
    Check("disk", look_at_disk),
    Check("shared memory", look_at_shared_memory),
    Check("port", look_at_port),
    Check("home", look_at_home),
    Check("inbox", look_at_inbox),
    Check("file events", look_at_file_events, 15.0),
    Check("database", look_at_database, DATABASE_SECONDS + 15),
    Check("embedding model", look_at_model, 30.0),
    Check("providers", look_at_providers, 20.0),
    Check("vocabulary", look_at_vocabulary, VOCABULARY_SECONDS + 5),
    Check("traces", look_at_traces),
    Check("parser walls", look_at_walls, WALLS_SECONDS + 5),
    Check("OCR", look_at_ocr, OCR_SECONDS + 5),
    Check("parser plug-ins", look_at_plugins, PLUGINS_SECONDS + 5),
)


def diagnose(settings: DoctorSettings) -> list[Finding]:
    """Look at everything that askbox needs.

    Order: as a person reads it; checks that do not apply say nothing.
    """
    return run_checks(CHECKS, settings)
