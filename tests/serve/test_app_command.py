"""What `expunge serve` says to options that cannot work."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from expunge.cli.serve import serve
from expunge.errors import ConfigError, ModelError

app = typer.Typer()
app.command()(serve)


def run(tmp_path, *words):
    return CliRunner().invoke(app, [*map(str, words), "--ledger", str(tmp_path / "x.ledger")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m", "--no-auth", "--host", "0.0.0.0"], "administrator"),
        (["m", "--engine", "tgi"], "in-process, vllm"),
        (["m", "--engine", "vllm"], "--upstream"),
        (["m", "--upstream", "http://x/v1#m"], "either MODEL or --upstream"),
        (["--upstream", "ftp://x"], "http://host/v1#model-name"),
        (["http://x/v1#m"], "--upstream"),
        (["m", "--set", "body_byte=1"], "body_bytes"),
        (["--print-command"], "name the MODEL"),
    ],
)
def test_options_that_cannot_work_are_refused_in_words(tmp_path, words, said):
    found = run(tmp_path, *words, "--port", 0)
    assert isinstance(found.exception, ConfigError)
    assert said in str(found.exception)


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = run(tmp_path, "no-such-model", "--port", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1" in str(found.exception)


def test_a_model_that_is_nowhere_leaves_no_ledger_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = run(tmp_path, "no-such-model", "--port", 0)
    assert isinstance(found.exception, ModelError)
    assert "'no-such-model' is no folder here" in str(found.exception)
    assert not list(tmp_path.iterdir())


def test_the_command_for_vllm_is_printed(tmp_path):
    found = run(tmp_path, "some/model", "--engine", "vllm", "--print-command")
    assert "vllm serve some/model" in found.stdout
    assert "--enable-prompt-embeds" in found.stdout
    assert "EXPUNGE_VLLM_GUARDS" not in found.stdout
    fits = run(tmp_path, "some/model", "--engine", "vllm", "--print-command", "--retain", "kept.jsonl")
    assert f"EXPUNGE_VLLM_GUARDS={tmp_path / 'x.ledger.guards'}" in fits.stdout


def test_the_first_key_of_a_ledger_is_shown_once(tmp_path, capsys):
    from expunge.cli.serve import _keys
    from expunge.ledger import Ledger
    from expunge.serve.auth import Doorkeeper
    from expunge.serve.settings import ServeSettings

    with Ledger.open(tmp_path / "k.ledger", create=True) as ledger:
        _keys(ledger, ServeSettings())
        key = capsys.readouterr().out.strip()
        assert Doorkeeper(ledger).admit(f"Bearer {key}").may("requests:write")
        _keys(ledger, ServeSettings())
        assert capsys.readouterr().out == ""


def test_the_command_is_described_without_torch_or_fastapi():
    code = "import sys, expunge.cli.serve; assert not {'torch', 'fastapi', 'cryptography', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interruption_while_a_model_loads_is_never_lost(tmp_path, model_folder):
    """Python drops an exception that a signal brings into what it does on the side, and goes on."""
    code = """
import os, signal, sys
from expunge.cli import main
from expunge.serve import opening

class OnTheSide:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def loads(*_):
    OnTheSide()
    sys.exit("it went on")

opening.open_server = loads
main()
"""
    words = ["serve", str(model_folder), "--port", "0", "--ledger", str(tmp_path / "x.ledger")]
    found = subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr.splitlines()[-1]) == (130, "interrupted: nothing is served")
    assert "Traceback" not in found.stderr


def test_a_server_behind_that_is_down_is_told_at_the_start(tmp_path, monkeypatch):
    from expunge.serve import listening

    def ready(app, listener, settings, ready, stopping):
        app.state.gateway.unreachable = "http://127.0.0.1:1/v1: cannot be reached."
        ready()

    monkeypatch.setattr(listening, "run", ready)
    found = run(tmp_path, "--upstream", "http://127.0.0.1:1/v1#m", "--port", 0)
    assert "http://127.0.0.1:1/v1: cannot be reached." in found.output.replace("\n", " ")
