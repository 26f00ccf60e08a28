"""A real vLLM of its own environment, started once by the command that we print. Left out unless `make test-vllm` says where it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import make_model

PYTHON = os.environ.get("EXPUNGE_VLLM_PYTHON", "")
"""The interpreter that has vLLM."""
collect_ignore_glob = [] if PYTHON else ["test_*.py"]
KEY = "key-of-the-engine"
RANK = 16
STARTS = 600
"""Seconds that it may take to start."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder(tokenizer, tmp_path_factory):
    """A made model that vLLM has kernels for, with a chat template."""
    from expunge.models.load import save_model
    from tests.serve.fake_upstream import with_chat

    place = tmp_path_factory.mktemp("vllm")
    model = make_model(tokenizer, hidden_size=128, intermediate_size=128, max_position_embeddings=256)
    save_model(model, tokenizer, place / "plain")
    return with_chat(place / "plain", place / "tiny")


@pytest.fixture(scope="session")
def lm(folder):
    from expunge.run import load

    return load(folder, device="cpu")


@pytest.fixture(scope="session")
def forbidding(folder, lm, tmp_path_factory):
    """A run of the guard 'guard' that forbids what the model would say."""
    from tests.serve.cases import forbidding_run

    return forbidding_run(folder, lm, tmp_path_factory.mktemp("guards") / "run")


@pytest.fixture(scope="session")
def engine(folder, forbidding, tmp_path_factory):
    """Its address."""
    from expunge.serve.backends.vllm import print_command

    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["EXPUNGE_API_KEY"] = KEY
    command = print_command(
        str(folder), port=port, guards=[forbidding.parent], max_lora_rank=RANK, runner="v1"
    )
    # the build for CPUs brings no `vllm` command
    command = command.replace("vllm serve", f"exec {PYTHON} -m vllm.entrypoints.openai.api_server --model")
    command += " --served-model-name tiny --enforce-eager --dtype float32 --block-size 32 --max-model-len 256 --max-num-seqs 8"
    more = {
        "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "PYTHONPATH": str(ROOT / "src"), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    log = tmp_path_factory.mktemp("engine") / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **more},
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1", log=log)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _wait(process, address, log):
    last = time.monotonic() + STARTS
    while time.monotonic() < last:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"vLLM did not start in {STARTS} seconds:\n{log.read_text()[-4000:]}")
