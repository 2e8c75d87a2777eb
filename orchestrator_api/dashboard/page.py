"""The page and its two files, with a policy that lets nothing else run or load."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
MEDIA = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


@router.get("/")
async def page() -> Response:
    return _file("html")


@router.get("/dashboard.js")
async def script() -> Response:
    return _file("js")


@router.get("/dashboard.css")
async def style() -> Response:
    return _file("css")


def _file(kind: str) -> Response:
    text = files("orchestrator_api.dashboard").joinpath(f"dashboard.{kind}").read_bytes()
    headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Cache-Control": "no-cache"}
    return Response(text, headers=headers, media_type=MEDIA[kind])
