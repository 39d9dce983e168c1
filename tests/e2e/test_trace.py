"""One trace a file and one a question, across real processes, as a collector receives them (`pytest -s` prints them)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Paragraph, SimpleDocTemplate

from tests.conftest import open_folder
from tests.e2e.harness import SECONDS_MAX, Askbox
from tests.otlp import Collector, SeenSpan

pytestmark = pytest.mark.timeout(900)
SECRET = "zanzibarquartz"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


def write_pdf(path: Path) -> None:
    """A report long enough for several batches; its text holds a word that no span may quote."""
    styles = getSampleStyleSheet()
    story: list[Any] = []
    for number in range(1, 13):
        story.append(Paragraph(f"Pump {number} of the waterworks", styles["Heading1"]))
        story += [
            Paragraph(
                f"In its {part} year pump {number} of the {SECRET} works moved {number * 137} cubic metres a day. "
                + f"Its {part} inspection found bearing {number} worn and seal {number + 40} dry. " * 6,
                styles["BodyText"],
            )
            for part in ("first", "second")
        ]
    SimpleDocTemplate(str(path)).build(story)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def box(collector: Collector) -> Iterator[Askbox]:
    with open_folder() as folder:
        askbox = Askbox(
            folder,
            None,
            ASKBOX_EMBED_BATCH="8",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
        )
        askbox.start()
        yield askbox
        if askbox.process is not None and askbox.process.poll() is None:
            askbox.stop()


def wait_ready(box: Askbox, path: str) -> None:
    box.wait_until(lambda: box.documents().get(path, {}).get("state") == "ready", SECONDS_MAX, f"{path} is not ready")


def by_name(spans: list[SeenSpan]) -> dict[str, list[SeenSpan]]:
    found: dict[str, list[SeenSpan]] = {}
    for span in spans:
        found.setdefault(span.name, []).append(span)
    return found


def parents(collector: Collector, trace_id: str) -> set[tuple[str, str | None]]:
    """Each kind of span with the name of its parent."""
    spans = collector.trace(trace_id)
    names = {span.span_id: span.name for span in spans}
    return {(span.name, names.get(span.parent_id or "", span.parent_id)) for span in spans}


def wait_tree(collector: Collector, trace_id: str, expected: set[tuple[str, str | None]]) -> None:
    """Each process sends on its own, so the last span to end is not the last to arrive."""
    collector.wait_until(lambda: parents(collector, trace_id) >= expected, f"the trace is not {expected}")
    assert parents(collector, trace_id) == expected


FILE_TREE = {
    ("send ingest", "file appeared"),
    ("process ingest", "send ingest"),
    ("parse", "process ingest"),
    ("stage chunks", "parse"),
    ("send embed", "process ingest"),
    ("embed texts", "file appeared"),
    ("publish", "file appeared"),
}


def test_file_has_one_trace_from_its_appearance_to_its_publication(box: Askbox, collector: Collector) -> None:
    write_pdf(box.folder / "report.pdf")
    (box.folder / "report.pdf").rename(box.inbox / "report.pdf")
    wait_ready(box, "report.pdf")
    appeared = collector.wait_for("file appeared", askbox_source_uri="inbox:report.pdf")
    wait_tree(collector, appeared.trace_id, {("file appeared", None), *FILE_TREE})
    print("\n" + collector.tree(appeared.trace_id))
    spans = by_name(collector.trace(appeared.trace_id))
    assert {span.service for span in collector.trace(appeared.trace_id)} == {"askbox-ingester", "askbox-embedder"}
    assert spans["send ingest"][0].kind == spans["send embed"][0].kind == "PRODUCER"
    assert spans["process ingest"][0].kind == "CONSUMER"
    assert spans["process ingest"][0].attributes["messaging.system"] == "postgresql"
    assert spans["parse"][0].attributes["askbox.media_type"] == "application/pdf"
    assert spans["publish"][0].attributes["askbox.version.id"] == appeared.attributes["askbox.version.id"]
    assert len(spans["embed texts"]) >= 3
    texts = sum(span.attributes["askbox.texts"] for span in spans["embed texts"])
    assert texts == spans["send embed"][0].attributes["messaging.batch.message_count"]
    last = max(span.end_ns for name in spans if name != "publish" for span in spans[name])
    assert appeared.start_ns == min(span.start_ns for span in collector.trace(appeared.trace_id))
    assert spans["publish"][0].end_ns >= last


def test_batch_has_its_own_trace_linked_with_that_of_each_version(box: Askbox, collector: Collector) -> None:
    for name in ("north", "south"):
        (box.inbox / f"{name}.md").write_text(f"# {name}\n\nThe {name} gate opens at nine.\n", encoding="utf-8")
    for name in ("north", "south"):
        wait_ready(box, f"{name}.md")
        appeared = collector.wait_for("file appeared", askbox_source_uri=f"inbox:{name}.md")
        (member,) = collector.wait_until(
            lambda a=appeared: by_name(collector.trace(a.trace_id)).get("embed texts"), "it was not embedded"
        )
        ((batch_trace, batch_id),) = member.links
        (batch,) = collector.wait_until(
            lambda t=batch_trace: by_name(collector.trace(t)).get("process embed"), "the batch was not told of"
        )
        print("\n" + collector.tree(appeared.trace_id) + "\n" + collector.tree(batch_trace))
        assert batch.span_id == batch_id
        assert batch.parent_id is None
        assert batch.kind == "CONSUMER"
        assert (member.trace_id, member.span_id) in batch.links
        assert parents(collector, batch_trace) == {
            ("process embed", None),
            ("embeddings all-MiniLM-L6-v2", "process embed"),
        }
    assert collector.find("embeddings all-MiniLM-L6-v2")[0].attributes["gen_ai.operation.name"] == "embeddings"


def test_upload_has_one_trace_through_three_processes(box: Askbox, collector: Collector) -> None:
    content = b"# Harbour\n\nThe harbour master is called at six.\n"
    sent = httpx2.post(
        box.address + "/ingest/files",
        files={"files": ("harbour.md", content, "text/markdown")},
        headers={"traceparent": TRACEPARENT},
        timeout=60,
        trust_env=False,
    )
    assert sent.status_code == 202, sent.text
    # The first is the caller's span, which the caller tells of.
    caller = ("POST /ingest/files", "b7ad6b7169203331")
    wait_tree(collector, TRACE_ID, {caller, ("file appeared", "POST /ingest/files"), *FILE_TREE})
    print("\n" + collector.tree(TRACE_ID))
    assert {span.service for span in collector.trace(TRACE_ID)} == {
        "askbox-query",
        "askbox-ingester",
        "askbox-embedder",
    }


def test_question_has_one_trace_and_the_answer_names_it(box: Askbox, collector: Collector) -> None:
    answer = box.ask("How much did pump 7 move in its first year?")
    assert answer["answered"]
    trace_id = answer["meta"]["trace_id"]
    collector.wait_until(lambda: "POST /query" in by_name(collector.trace(trace_id)), "the question was not told of")
    print("\n" + collector.tree(trace_id))
    spans = by_name(collector.trace(trace_id))
    assert spans["POST /query"][0].kind == "SERVER"
    assert spans["POST /query"][0].parent_id is None
    assert spans["POST /query"][0].attributes["http.response.status_code"] == 200
    assert spans["retrieval default"][0].attributes["gen_ai.operation.name"] == "retrieval"
    assert spans["retrieval default"][0].attributes["gen_ai.request.top_k"] > 0
    assert spans["embeddings all-MiniLM-L6-v2"][0].kind == "INTERNAL"


def test_refused_request_has_a_trace_id_that_is_told_of(box: Askbox, collector: Collector) -> None:
    refused = httpx2.get(
        box.address + "/documents/999999?key=not-to-be-told", headers={"traceparent": TRACEPARENT}, trust_env=False
    )
    assert refused.status_code == 404
    assert refused.json()["trace_id"] == TRACE_ID
    told = collector.wait_for("GET /documents/{document_id}")
    assert told.attributes["url.query"] == "REDACTED"


def test_file_that_cannot_be_read_is_told_of_as_an_error_without_its_text(box: Askbox, collector: Collector) -> None:
    (box.inbox / "broken.pdf").write_bytes(b"%PDF-1.7\n" + SECRET.encode() * 50)
    box.wait_until(
        lambda: box.documents().get("broken.pdf", {}).get("state") == "failed", SECONDS_MAX, "it did not fail"
    )
    appeared = collector.wait_for("file appeared", askbox_source_uri="inbox:broken.pdf")
    (process,) = collector.wait_until(
        lambda: by_name(collector.trace(appeared.trace_id)).get("process ingest"), "its end was not told of"
    )
    print("\n" + collector.tree(appeared.trace_id))
    assert process.is_error
    assert process.attributes["error.type"] == "CorruptFile"


def test_scrape_tells_of_the_queue_and_of_what_the_workers_did(box: Askbox) -> None:
    def figures() -> dict[str, float]:
        return {
            f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for family in text_string_to_metric_families(box.get("/metrics").text)
            for sample in family.samples
        }

    ingested = "askbox_jobs_total[('outcome', 'completed'), ('stage', 'ingest')]"
    box.wait_until(lambda: figures().get(ingested, 0) >= 4, SECONDS_MAX, "the workers' counts did not arrive")
    shown = figures()
    assert shown["askbox_documents[('state', 'ready')]"] >= 4
    assert shown["askbox_documents[('state', 'failed')]"] == 1
    assert shown["askbox_workers[('kind', 'embedder')]"] == 1
    assert shown["askbox_queue_jobs[('stage', 'embed'), ('state', 'ready')]"] == 0
    assert shown["askbox_pending_embeddings[]"] == 0
    assert shown["askbox_truncated_inputs[]"] == 0
    assert shown["askbox_retrieval_duration_seconds_count[]"] >= 1


def test_measurements_of_every_process_arrive(box: Askbox, collector: Collector) -> None:
    expected = {
        "askbox-ingester": {"askbox.jobs", "askbox.job.duration"},
        "askbox-embedder": {"askbox.jobs", "askbox.embedded.texts", "askbox.version.time_to_ready"},
        "askbox-query": {"askbox.retrieval.duration", "askbox.queue.jobs", "http.server.request.duration"},
    }
    for service, names in expected.items():
        collector.wait_until(lambda s=service, n=names: n <= collector.metrics[s], f"{service} sent too little")


def test_stop_sends_the_rest_and_every_span_has_its_parent(box: Askbox, collector: Collector) -> None:
    trace_id = box.ask("When is the harbour master called?")["meta"]["trace_id"]
    assert box.stop() == 0
    assert "POST /query" in by_name(collector.trace(trace_id))
    assert [span for span in collector.orphans() if span.parent_id != "b7ad6b7169203331"] == []
    probes = {f"GET {path}" for path in ("/health", "/live", "/ready", "/metrics", "/ingest/stats")}
    assert probes.isdisjoint(span.name for span in collector.spans)
    assert "telemetry_not_sent" not in box.log.read_text(encoding="utf-8", errors="replace")


def test_nothing_that_was_sent_quotes_a_document(collector: Collector) -> None:
    assert len(collector.raw) > 10
    for body in collector.raw:
        assert SECRET.encode() not in body
        assert b"not-to-be-told" not in body
