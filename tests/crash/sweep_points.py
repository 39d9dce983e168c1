"""Where T01 strikes: which process at which failpoint, how, and what has to happen for it to get there."""

from dataclasses import dataclass

from shared.failpoints import Failpoint

# A lease ends soon after its work has hung.
HANGING = {"ASKBOX_LEASE_DEADLINE_SECONDS": "3"}
# Every collection is large.
INDEXING = {"ASKBOX_EXACT_CHUNKS_MAX": "4"}


@dataclass(frozen=True)
class Point:
    """One step, the process that is struck there, and how. `lead` is what else has to go wrong to get there."""

    kind: str
    failpoint: Failpoint
    action: str
    needs: str = ""
    lead: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.strike}"

    @property
    def strike(self) -> str:
        """What the log says when it is reached."""
        return f"{self.failpoint.label}:{self.action}"

    @property
    def environment(self) -> dict[str, str]:
        traps = [*filter(None, [self.lead]), self.strike]
        environment = {"ASKBOX_FAILPOINTS": ",".join(traps)}
        if "hang" in environment["ASKBOX_FAILPOINTS"]:
            environment |= HANGING
        return environment | (INDEXING if self.needs == "index" else {})


def _points(kind: str, actions: str, *failpoints: Failpoint, needs: str = "", lead: str = "") -> list[Point]:
    return [Point(kind, failpoint, action, needs, lead) for failpoint in failpoints for action in actions.split()]


F = Failpoint
# A hang is struck where a lease bounds it or a caller waits; elsewhere nothing is awaited that has no bound of its own.
POINTS: tuple[Point, ...] = (
    *_points("ingester", "kill raise", F.INBOX_LISTED, F.FILE_READ, F.DELETION_NOTICED, F.BLOB_STORED, F.DOCUMENT_RENAMED),
    *_points("ingester", "kill raise", F.VERSION_WRITTEN, F.VERSION_COMMITTED, F.DELETION_WRITTEN, F.DELETION_COMMITTED),
    *_points("ingester", "kill raise", F.PART_STORED, F.BURIAL_WRITTEN, F.BURIAL_COMMITTED, F.DEAD_INGESTS_WRITTEN, needs="bad"),
    *_points("ingester", "kill raise", F.JOBS_CLAIMED, F.SWEEP_BEGUN),
    *_points("ingester", "kill raise", F.LEASE_EXTENDED, F.LEASES_SWEPT, lead="ingest.parsing_committed:hang"),
    *_points("ingester", "kill raise", F.JOBS_RETRIED_WRITTEN, F.JOBS_RETRIED_COMMITTED, lead="ingest.blob_read:raise"),
    *_points("ingester", "kill raise hang", F.COMPLETION_WRITTEN, F.PARSING_WRITTEN, F.PARSING_COMMITTED, F.BLOB_READ),
    *_points("ingester", "kill raise hang", F.HEAD_PARSED, F.CHUNKS_WRITTEN, F.STAGING_WRITTEN, F.STAGING_COMMITTED),
    *_points("ingester", "kill raise hang", F.CHUNKS_COMMITTED, needs="large"),
    *_points("ingester", "kill raise hang", F.ATTACHMENT_STORED, F.ATTACHMENTS_WRITTEN, needs="mail"),
    *_points("ingester", "kill raise", F.DOCUMENT_LOCKED, F.CHUNKS_PUBLISHED, F.VERSION_LIVE, F.VERSION_PUBLISHED),
    *_points("ingester", "kill raise", F.VERSIONS_SWEPT, needs="slow"),
    *_points("ingester", "kill raise hang", F.FOLDER_LISTED, F.SCANNED_FILE_TAKEN, F.SCANNED_FILE_LINKED, needs="folder"),
    *_points("ingester", "kill raise hang", F.SCAN_WRITTEN, F.SCAN_COMMITTED, needs="folder"),
    *_points("embedder", "kill raise", F.JOBS_CLAIMED, F.SWEEP_BEGUN),
    *_points("embedder", "kill raise", F.LEASE_EXTENDED, F.VERSIONS_SWEPT, needs="slow"),
    *_points("embedder", "kill raise", F.LEASES_SWEPT, lead="embed.texts_found:hang"),
    *_points("embedder", "kill raise", F.JOBS_RETRIED_WRITTEN, F.JOBS_RETRIED_COMMITTED, lead="embed.texts_found:raise"),
    *_points("embedder", "kill raise", F.BURIAL_WRITTEN, F.BURIAL_COMMITTED, F.FAILURE_WRITTEN, needs="poison"),
    *_points("embedder", "kill raise", F.RELEASE_WRITTEN, F.RELEASE_COMMITTED, needs="busy"),
    *_points("embedder", "kill raise hang", F.COMPLETION_WRITTEN, F.TEXTS_FOUND, F.VECTORS_COMPUTED, F.VECTORS_WRITTEN),
    *_points("embedder", "kill raise hang", F.VECTORS_COMMITTED),
    *_points("embedder", "kill raise", F.DOCUMENT_LOCKED, F.CHUNKS_PUBLISHED, F.VERSION_LIVE, F.VERSION_PUBLISHED),
    *_points("embedder", "kill raise hang", F.STATISTICS_WRITTEN, F.STATISTICS_COMMITTED, F.INDEX_COMPLETED),
    *_points("embedder", "kill raise", F.INDEX_CHANGED, needs="index"),
    *_points("embedder", "kill raise", F.HOUSEKEEPING_BEGUN, F.STORAGE_SWEPT),
    *_points("query", "kill raise hang", F.BLOB_STORED, F.VERSION_WRITTEN, F.VERSION_COMMITTED),
    *_points("query", "kill raise hang", F.UPLOAD_RECEIVED, F.UPLOAD_TAKEN, F.TOMBSTONE_WRITTEN, F.TOMBSTONE_COMMITTED),
    *_points("query", "kill raise hang", F.PART_STORED, needs="bad"),
    *_points("query", "kill raise hang", F.RETRY_WRITTEN, F.RETRY_COMMITTED, needs="poison"),
    *_points("query", "kill raise hang", F.COLLECTION_WRITTEN, F.COLLECTION_COMMITTED, needs="collection"),
    *_points("query", "kill raise hang", F.SCAN_REQUEST_WRITTEN, F.SCAN_REQUEST_COMMITTED, needs="folder"),
)  # fmt: skip
SWEPT = frozenset(point.failpoint for point in POINTS)
