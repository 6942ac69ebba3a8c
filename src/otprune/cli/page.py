"""`otprune page`: a page in the browser."""

from __future__ import annotations

import sys

from otprune.cli import options, parsing
from otprune.cli.progress import Steps

EPILOG = (
    "Without --model the embedded model answers. It knows a small world only: the page lists it, "
    "as `otprune ask --demo-help` does."
)


def page(
    model: options.Model = None,
    tokens: options.Tokens = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = 7860,
) -> None:
    """Serve a page for the browser: ask both ways, see what is kept, compare, watch clips.

    It listens on this machine alone, and needs no network. Ctrl-C ends it.
    """
    parsing.check_model(model, tokens, trust_remote_code)
    from otprune.page import serve

    serve.check_installed()
    with serve.listen(host, port) as opened:
        with Steps(1) as steps:
            steps.doing("loading the model")
            from otprune.asking import models

            loaded = models.load(model, tokens, device, dtype.value, trust_remote_code)
        if not serve.is_loopback(host):
            print("otprune: note:", serve.OPEN.format(address=host), file=sys.stderr)
        serve.serve(loaded, opened, host, _ready)


def _ready(address: str) -> None:
    print(f"{address} (Ctrl-C ends it)", flush=True)
