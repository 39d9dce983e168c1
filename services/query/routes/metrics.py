"""`/metrics` for Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from services.query.deps import AccessParam, DepsParam
from services.query.metrics import scrape

router = APIRouter(tags=["status"])


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def figures(deps: DepsParam, access: AccessParam) -> Response:
    """Show the figures of the whole system, so where there are keys, one that reads every collection is needed."""
    access.require_everywhere("read")
    return Response(await scrape(deps.pool, access.ids()), media_type=CONTENT_TYPE_LATEST)
