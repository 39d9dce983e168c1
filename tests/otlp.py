"""An OTLP collector for tests: receives over HTTP, decodes, and draws a trace as a tree.

`python -m tests.otlp --print FILE` runs everything on an empty database, drops the file, and prints its trace, those of the
batches that embedded it, and that of a question.
"""

import argparse
import gzip
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
ERROR = 2


@dataclass(frozen=True)
class SeenSpan:
    """A span as it arrived. Units: nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    instance: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any] = field(hash=False)
    links: tuple[tuple[str, str], ...]  # (trace id, span id)


class Collector:
    """Holds what arrived."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.metrics: dict[str, set[str]] = defaultdict(set)  # service → names
        self.raw: list[bytes] = []
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._receive(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _receive(self, path: str, body: bytes) -> None:
        with self._arrived:
            self.raw.append(body)
            if path == "/v1/traces":
                self.spans += read_spans(body)
            elif path == "/v1/metrics":
                for service, name in read_metrics(body):
                    self.metrics[service].add(name)
            self._arrived.notify_all()

    def wait_until(self, is_so: Callable[[], object], complaint: str, seconds: float = 180) -> Any:
        """Return the first true answer; it is asked after every arrival."""
        with self._arrived:
            answer = self._arrived.wait_for(is_so, seconds)
            assert answer, f"{complaint}; there are:\n{self.forest()}"
            return answer

    def find(self, name: str, **attributes: Any) -> list[SeenSpan]:
        """Spans of a name whose attributes have these values; underscores stand for dots."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [
            span
            for span in self.spans
            if span.name == name and all(span.attributes.get(key) == value for key, value in wanted.items())
        ]

    def wait_for(self, name: str, **attributes: Any) -> SeenSpan:
        """Return the first span of a name."""
        found: list[SeenSpan] = self.wait_until(lambda: self.find(name, **attributes), f"no span {name} {attributes}")
        return found[0]

    def trace(self, trace_id: str) -> list[SeenSpan]:
        """Spans of one trace, as they began."""
        return sorted((s for s in self.spans if s.trace_id == trace_id), key=lambda s: (s.start_ns, s.end_ns))

    def orphans(self) -> list[SeenSpan]:
        """Spans whose parent, or whose linked span, never arrived."""
        known = {(span.trace_id, span.span_id) for span in self.spans}
        return [
            span
            for span in self.spans
            if (span.parent_id is not None and (span.trace_id, span.parent_id) not in known)
            or any(link not in known for link in span.links)
        ]

    def tree(self, trace_id: str) -> str:
        """Draw one trace."""
        spans = self.trace(trace_id)
        present = {span.span_id for span in spans}
        children: dict[str | None, list[SeenSpan]] = defaultdict(list)
        for span in spans:
            children[span.parent_id if span.parent_id in present else None].append(span)
        lines = [f"trace {trace_id}"]
        origin = spans[0].start_ns if spans else 0

        def draw(span: SeenSpan, depth: int) -> None:
            links = {trace for trace, _ in span.links}
            lines.append(
                f"{'  ' * depth}{span.name:<{46 - 2 * depth}} {span.service:<17} {span.kind:<8} "
                f"{(span.start_ns - origin) / 1e6:9.1f} ms  + {(span.end_ns - span.start_ns) / 1e6:8.1f} ms"
                + ("  ERROR " + str(span.attributes.get("error.type")) if span.is_error else "")
                + (f"  → {', '.join(sorted(trace[:8] for trace in links))}" if links else "")
            )
            for child in children[span.span_id]:
                draw(child, depth + 1)

        for root in children[None]:
            draw(root, 1)
        return "\n".join(lines)

    def forest(self) -> str:
        """Draw every trace."""
        return "\n".join(self.tree(trace_id) for trace_id in dict.fromkeys(span.trace_id for span in self.spans))


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def read_spans(body: bytes) -> Iterator[SeenSpan]:
    """Decode a request to `/v1/traces`."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        process = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex() or None,
                    name=span.name,
                    kind=KINDS[span.kind],
                    service=process["service.name"],
                    instance=process["service.instance.id"],
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    is_error=span.status.code == ERROR,
                    attributes=_attributes(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                )


def read_metrics(body: bytes) -> Iterator[tuple[str, str]]:
    """Decode a request to `/v1/metrics`: (service, name of a metric)."""
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield service, metric.name


def print_traces(file: Path) -> None:
    """Run everything, drop one file, ask one question, and print what was told of them."""
    from tests.e2e.harness import Askbox

    with tempfile.TemporaryDirectory() as folder, Collector() as collector:
        Path(folder).chmod(0o755)
        box = Askbox(Path(folder), None, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        box.start()
        try:
            shutil.copy(file, box.inbox / file.name)
            box.wait_until(
                lambda: box.documents().get(file.name, {}).get("state") in {"ready", "failed"}, 600, "it is not ready"
            )
            answer = box.ask(f"What does {file.stem} say?")
        except AssertionError:
            print(box.tail())
            raise
        finally:
            box.stop()
        appeared = collector.wait_for("file appeared")
        batches = [trace for span in collector.trace(appeared.trace_id) for trace, _ in span.links]
        for trace_id in dict.fromkeys([appeared.trace_id, *batches, answer["meta"]["trace_id"]]):
            print(collector.tree(trace_id), end="\n\n")
        print(f"orphans: {len(collector.orphans())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.otlp")
    parser.add_argument("--print", type=Path, required=True, metavar="FILE", dest="file")
    chosen = parser.parse_args().file
    if not chosen.is_file():
        sys.exit(f"{chosen} is not a file")
    print_traces(chosen)
