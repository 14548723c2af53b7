"""The chat page, its files, and the page about the API. Nothing in them comes from anywhere else."""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from deployments.serving.api_page import api_page

STATIC = Path(__file__).parent / "static"
REVALIDATE = {"Cache-Control": "no-cache"}
router = APIRouter(include_in_schema=False)
NO_PAGE = "<!doctype html><title>nanochat</title><p>The chat page is not installed. The API is: <a href='docs'>docs</a>"


class PageFiles(StaticFiles):
    """Files of the page; a browser asks each time whether they have changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file."""
        response = await super().get_response(path, scope)
        response.headers.update(REVALIDATE)
        return response


@router.get("/")
async def index() -> Response:
    """Return the chat page."""
    page = STATIC / "index.html"
    if not page.is_file():
        return HTMLResponse(NO_PAGE)
    return FileResponse(page, media_type="text/html", headers=REVALIDATE)


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Return the page's icon, or nothing."""
    icon = next(iter(sorted(STATIC.glob("favicon.*"))), None)
    return FileResponse(icon, headers=REVALIDATE) if icon else Response(status_code=204)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the page about the API."""
    return HTMLResponse(api_page(request.app.openapi()))


def add_pages(app: FastAPI) -> None:
    """Add the pages and their files."""
    app.include_router(router)
    app.mount("/static", PageFiles(directory=STATIC, check_dir=False))
