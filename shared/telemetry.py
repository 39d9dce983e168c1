"""Log lines as facts: one list of events, and how they are written."""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from shared.spans import current_trace_id


class Event(StrEnum):
    """Every log event there is: a fact in the past tense. Identifiers stand beside it, never document text."""

    PROCESS_STARTED = "process_started"
    PROCESS_STOPPED = "process_stopped"
    PROCESS_FAILED = "process_failed"
    FAILPOINTS_ARMED = "failpoints_armed"
    FAILPOINT_REACHED = "failpoint_reached"
    LISTENER_CONNECTED = "listener_connected"
    LISTENER_LOST = "listener_lost"
    JOBS_COMPLETED = "jobs_completed"
    JOBS_DISPOSED = "jobs_disposed"
    JOB_RETRIED = "job_retried"
    JOB_BURIED = "job_buried"
    JOBS_RELEASED = "jobs_released"
    LEASE_LOST = "lease_lost"
    LEASES_SWEPT = "leases_swept"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    SCRATCH_UNAVAILABLE = "scratch_unavailable"
    WAIT_STARTED = "wait_started"
    TOKENS_ESTIMATED = "tokens_estimated"
    DATABASE_UNAVAILABLE = "database_unavailable"
    PLUGIN_LOADED = "plugin_loaded"
    PLUGIN_REFUSED = "plugin_refused"
    FILE_TAKEN = "file_taken"
    FILE_SKIPPED = "file_skipped"
    FILE_CHANGED_WHILE_READ = "file_changed_while_read"
    INBOX_SCANNED = "inbox_scanned"
    EVENTS_DROPPED = "events_dropped"
    FOLDER_NOT_WATCHED = "folder_not_watched"
    INBOX_DELETION_PAUSED = "inbox_deletion_paused"
    DOCUMENT_DELETED = "document_deleted"
    DOCUMENT_MOVED = "document_moved"
    DOCUMENT_STAGED = "document_staged"
    DOCUMENT_PUBLISHED = "document_published"
    DOCUMENT_FAILED = "document_failed"
    PUBLICATION_FAILED = "publication_failed"
    STATISTICS_REFRESHED = "statistics_refreshed"
    INDEX_BUILT = "index_built"
    INDEX_DROPPED = "index_dropped"
    INDEX_REFUSED = "index_refused"
    SCAN_REQUESTED = "scan_requested"
    FOLDER_SCANNED = "folder_scanned"
    DOCUMENT_RETRIED = "document_retried"
    DEAD_LETTERS_DROPPED = "dead_letters_dropped"
    COLLECTION_CREATED = "collection_created"
    COLLECTION_RENAMED = "collection_renamed"
    COLLECTION_DELETED = "collection_deleted"
    QUESTION_ANSWERED = "question_answered"
    QUESTION_ABANDONED = "question_abandoned"
    QUESTION_REJECTED = "question_rejected"
    TOKEN_USAGE_DROPPED = "token_usage_dropped"  # noqa: S105 (the name of an event)
    REQUEST_FAILED = "request_failed"
    TELEMETRY_NOT_SENT = "telemetry_not_sent"
    TELEMETRY_SENT_AGAIN = "telemetry_sent_again"


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "event": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if (trace_id := current_trace_id()) is not None:
            line["trace_id"] = trace_id
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _LineFormatter(logging.Formatter):
    """For a person at a terminal: event first, facts behind it."""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        mark = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        line = f"{mark}{record.getMessage()} {facts}".rstrip()
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line


def start_logging(service: str, level: str, *, as_json: bool | None = None) -> None:
    """Send log lines to standard error: columns at a terminal or under `askbox up`, JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    handler.setFormatter(_JsonFormatter(service) if as_json else _LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # its pool reports each connection of an outage
    logging.getLogger("askbox").setLevel(level)


_logger = logging.getLogger("askbox")


def log(event: Event, level: int = logging.INFO, *, error: BaseException | None = None, **facts: object) -> None:
    """Write one log line."""
    _logger.log(level, event.value, extra={"facts": facts}, exc_info=error)
