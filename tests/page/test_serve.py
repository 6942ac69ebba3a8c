"""The address of the page, and what is said where it cannot be served."""

import pytest

from otprune.asking import models
from otprune.cli import main
from otprune.errors import OTPruneError
from otprune.page import serve


def test_a_port_in_use_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: name)  # as if gradio were here
    with serve.listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        assert main(["page", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"otprune: error: cannot listen on 127.0.0.1:{port} (")
    assert said.count("\n") == 1


def test_other_machines_are_let_in_on_request_alone_and_it_is_said(capsys, monkeypatch):
    served = []
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setattr(models, "load", lambda *_: "a model")
    monkeypatch.setattr(serve, "serve", lambda *given: served.append(given))
    for options, host, said in (
        ((), "127.0.0.1", ""),
        (("--host", "0.0.0.0"), "0.0.0.0", "otprune: note: 0.0.0.0 is not this machine alone"),
    ):
        assert main(["page", "--port", "0", *options]) == 0
        loaded, opened, where, _ = served.pop()
        assert (loaded, where) == ("a model", host)
        assert opened.fileno() == -1  # closed again
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert err.count("\n") == bool(said)


def test_no_such_address():
    with pytest.raises(OTPruneError, match=r"--host no\.such.name.invalid: no such address"):
        serve.listen("no.such.name.invalid", 0)
    with pytest.raises(OTPruneError, match=r"cannot listen on 192\.0\.2\.1"):
        serve.listen("192.0.2.1", 0)


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["page"]) == 2
    assert capsys.readouterr().err == (
        "otprune: error: the page needs gradio, which is not installed: "
        "pip install 'otprune[page]'\n"
    )


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("a-name", False),
    ],
)
def test_which_addresses_are_this_machine_alone(host, alone):
    assert serve.is_loopback(host) == alone


def test_addresses_for_a_browser():
    assert serve.address("127.0.0.1", 7860) == "http://127.0.0.1:7860"
    assert serve.address("::1", 80) == "http://[::1]:80"
