"""Requests to the evaluated askbox, with their milliseconds. What is busy for a moment is asked again."""

import time
from typing import Any

import httpx2

from services.console.evaluation.scratch import EvaluationFailed

ATTEMPTS_MAX = 3
PAUSE_SECONDS = 1.0
SHOWN_CHARACTERS_MAX = 300


def request(client: httpx2.Client, method: str, path: str, **options: Any) -> tuple[Any, float]:
    """Send a request and return the decoded answer with how many milliseconds it took.

    Raises: EvaluationFailed.
    """
    failure = ""
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        try:
            response = client.request(method, path, **options)
        except httpx2.HTTPError as error:
            failure = str(error) or type(error).__name__
            continue
        duration_ms = (time.perf_counter() - started) * 1000
        if response.status_code < httpx2.codes.BAD_REQUEST:
            return response.json(), duration_ms
        failure = f"{response.status_code}: {response.text[:SHOWN_CHARACTERS_MAX]}"
        if response.status_code < httpx2.codes.INTERNAL_SERVER_ERROR:
            break
    raise EvaluationFailed(f"{method} {path} failed: {failure}")
