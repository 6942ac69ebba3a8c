"""Serving the page: the address, the folder of uploads, and nothing beyond this machine."""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any

from otprune.errors import MissingDependencyError, OTPruneError

if TYPE_CHECKING:
    from otprune.asking.models import Loaded

NEEDED = ("gradio", "fastapi", "uvicorn")
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine, so that none is fetched
OPEN = (
    "{address} is not this machine alone: whoever reaches that port can use the page, without a "
    "password and without encryption, and what they send is worked on here"
)


def check_installed() -> None:
    """Raise MissingDependencyError if gradio, or what it brings along, is missing."""
    for name in NEEDED:
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"the page needs {name}, which is not installed: pip install 'otprune[page]'"
            )


def listen(host: str, port: int) -> socket.socket:
    """The socket of an address, so that a port in use is known before a model is loaded.

    Raises:
        OTPruneError: there is no such address here, or the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise OTPruneError(f"--host {host}: no such address ({cause.strerror or cause})") from cause
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(128)
    except OSError as cause:
        opened.close()
        why = cause.strerror or cause
        raise OTPruneError(
            f"cannot listen on {host}:{port} ({why}): give another --port, such as {port + 1}"
        ) from cause
    return opened


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """The page's address in a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(loaded: Loaded, opened: socket.socket, host: str, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Uploads are in a folder of their own, which is removed at the end.

    Args:
        ready: is called with the address once the page can be opened.
    """
    signal.signal(signal.SIGTERM, _end)
    temporary = tempfile.TemporaryDirectory(prefix="otprune-page-", ignore_cleanup_errors=True)
    with temporary as folder:
        # Again at the very end: a thread that is still at work may store a frame of a camera.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        app = application(loaded, folder)
        import uvicorn

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets=sockets)
                ready(address(host, opened.getsockname()[1]))

        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        Server(config).run(sockets=[opened])


def application(loaded: Loaded, folder: str) -> Any:
    """The page as an ASGI application.

    Args:
        folder: for uploads.
    """
    # gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    import gradio as gr
    from fastapi import FastAPI

    from otprune import demo
    from otprune.page import layout, style

    page = layout.build(loaded)
    page.has_launched = True  # as gradio's own launch() has it: files of a request are uploads
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(demo.SAMPLES_DIR)],
        show_error=False,
        max_file_size=layout.LARGEST,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        theme=gr.themes.Base(font=FONTS, font_mono=["monospace"]),
        css=style.CSS,
    )


def _end(number: int, frame: FrameType | None) -> None:
    """An exit, so that the folder of uploads is removed."""
    raise SystemExit(128 + number)
