"""Real servers on loopback, as processes of their own: `transformers serve`, and llama.cpp's through llama-cpp-python."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

START = 180  # seconds; on a busy machine importing torch alone takes a while
NO_LLAMA_CPP = None if importlib.util.find_spec("llama_cpp") else (
    "llama-cpp-python is not installed: `make test-servers` compiles it, which needs a C++ compiler and some minutes"
)  # fmt: skip
NO_TRANSFORMERS_SERVE = None if importlib.util.find_spec("uvicorn") and importlib.util.find_spec("fastapi") else (
    "what `transformers serve` needs is not installed: `make install` does it"
)  # fmt: skip


@contextmanager
def transformers_serve(log: Path, **environment: str):
    """Serve any folder on disk by its path; yields the API's URL."""
    script = shutil.which("transformers", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = [script, "serve", "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with _running(command, log, "/health", environment) as url:
        yield url


@contextmanager
def llama_cpp(gguf: Path, log: Path, *, window: int = 2048):
    """Serve a GGUF; yields the API's URL."""
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(gguf),
        "--host",
        "127.0.0.1",
        "--n_ctx",
        str(window),
    ]
    command += ["--verbose", "false", "--n_gpu_layers", "0"]
    with _running(command, log, "/v1/models", {}) as url:
        yield url


@contextmanager
def _running(command, log, ready, environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    # One thread: where others work, too, threads that wait for each other wait long.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            _wait(process, origin + ready, log)
            yield f"{origin}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def _wait(process, url, log):
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the server did not answer within {START} seconds:\n{log.read_text(errors='replace')[-3000:]}")
