"""What the server says of itself: models, health, version, metrics, and what the chat page must know."""

from importlib import metadata

from fastapi import APIRouter
from starlette.responses import Response

from deployments.serving import response_schemas
from deployments.serving.errors import unavailable
from deployments.serving.responses import OF_ANY_GET, looked_up, problems
from deployments.serving.serving_dependency import Serving
from deployments.serving.state import ServerState

router = APIRouter(tags=["server"])
VERSION = metadata.version("nanochat")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _model(state: ServerState) -> response_schemas.Model:
    return response_schemas.Model(
        id=state.spec.model_name, created=int(state.started), max_model_len=state.engine.max_context
    )


@router.get("/v1/models", summary="The models", responses=looked_up(response_schemas.Models))
async def list_models(state: Serving) -> response_schemas.Models:
    """Return the one model that is served."""
    return response_schemas.Models(data=[_model(state)])


@router.get("/v1/models/{model:path}", summary="One model", responses=looked_up(response_schemas.Model, 404))
async def retrieve_model(model: str, state: Serving) -> response_schemas.Model:
    """Return a model by its name."""
    state.check_model(model)
    return _model(state)


@router.get("/health", summary="Whether it answers", responses=looked_up(response_schemas.Health))
async def health(state: Serving) -> response_schemas.Health:
    """Answer 200 while requests are taken, 503 while the model loads, the server drains, or the engine is dead."""
    if state.failure:
        raise unavailable("The engine has failed; the server must be started anew.", code="engine_failed")
    if not state.is_ready:
        raise unavailable(f"The server is {state.phase}.", code=state.phase, retry_seconds=5)
    return response_schemas.Health(status="ok")


@router.get("/ready", summary="Whether it takes requests", responses=looked_up(response_schemas.Health))
async def ready(state: Serving) -> response_schemas.Health:
    """The same as /health: load balancers ask here."""
    return await health(state)


@router.get("/version", summary="The release", responses=looked_up(response_schemas.Version))
async def version() -> response_schemas.Version:
    """Return the release of this project."""
    return response_schemas.Version(version=VERSION)


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}, "description": "The numbers."},
        **problems(*OF_ANY_GET),
    },
)
async def metrics(state: Serving) -> Response:
    """Return all numbers in Prometheus' text form."""
    return Response(state.metrics.text(), media_type=METRICS_TYPE)


@router.get("/nanochat/info", summary="For the chat page", responses=looked_up(response_schemas.PageInfo))
async def page_info(state: Serving) -> response_schemas.PageInfo:
    """Return what the chat page must know before anybody types a key."""
    spec = state.spec
    return response_schemas.PageInfo(
        model_name=spec.model_name,
        max_context=state.engine.max_context,
        defaults=response_schemas.PageDefaults.model_validate(spec.sampling.model_dump()),
        limits=response_schemas.PageLimits.model_validate(spec.limits.model_dump()),
        version=VERSION,
        needs_key=state.needs_key,
    )
