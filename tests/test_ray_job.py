"""A cluster that asks for a token: `ray job submit` from a checkout, and workers on a second node."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).parent / "ray"
PHALANX = ("python", "-m", "phalanx.cluster.cli")
TINY = (
    *("mode=sync", "total_env_steps=200", "env.max_steps=5", "rollout.streams=2", "rollout.envs_per_stream=4"),
    *("replay.min_episodes=4", "learner.batch_episodes=4", "evaluation.episodes=2", "cluster.workers=2"),
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def ray_node(env: dict[str, str], folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Ray's processes of one node with two CPUs. Away from the checkout: jobs must find phalanx in what is uploaded."""
    command = [RAY, "start", "--block", "--num-cpus=2", "--object-store-memory=200000000", *options]
    # A session of its own, so that everything that is started here, and nothing else, can be stopped together.
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


def stop(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGTERM)  # `ray start --block` takes its processes down with it
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Cluster:
    """A head in processes of its own; `env` is what whoever knows the token sets."""

    gcs: int
    dashboard: int
    folder: Path
    env: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def submit(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        line = [RAY, "job", "submit", "--address", self.address, "--working-dir", ".", "--", *command]
        env = self.env | environment
        return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie below this folder, and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="phx", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{RAY.parent}{os.pathsep}{env['PATH']}"
    gcs, dashboard, agent, client = free_ports(4)
    head = ray_node(
        env,
        folder,
        *("--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"),
        *(
            f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={folder / 'ray'}",
        ),
    )
    try:
        running = Cluster(gcs, dashboard, folder, env)
        _wait_until_answering(running, head)
        yield running
    finally:
        stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_answering(cluster: Cluster, head: subprocess.Popen[bytes]) -> None:
    log = cluster.folder / "log"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{cluster.address}/api/version", timeout=5)
        except urllib.error.HTTPError:
            return  # it answers, if only to ask for the token
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


def _wait_for_nodes(cluster: Cluster, count: int) -> None:
    deadline = time.monotonic() + 60
    command = [RAY, "status", "--address", f"127.0.0.1:{cluster.gcs}"]
    shown = ""
    while time.monotonic() < deadline:
        shown = subprocess.run(command, env=cluster.env, capture_output=True, text=True, check=False).stdout
        if len(re.findall(r"^ 1 node_", shown, re.MULTILINE)) == count:
            return
    raise AssertionError(shown + (cluster.folder / "log").read_text())


def test_whoever_does_not_know_the_token_is_turned_away(cluster: Cluster, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    done = cluster.submit("python", "-c", "print('ran all the same')", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "ran all the same" not in done.stdout
    with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
        urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=10)


def test_a_job_trains_from_the_uploaded_checkout(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cluster.submit(*PHALANX, "train", "demar_tag", *TINY, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["exit_reason"] == "completed"
    assert summary["env_steps"] >= 200
    again = cluster.submit(*PHALANX, "resume", str(out))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is finished" in again.stdout


def test_a_wrong_request_fails_the_job_with_its_sentence(cluster: Cluster) -> None:
    done = cluster.submit(*PHALANX, "train", "demar_tag", "algorithm.lr=fast")
    assert done.returncode != 0
    assert "algorithm.lr" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout


def test_workers_run_on_every_node(cluster: Cluster, tmp_path: Path) -> None:
    """Two workers that reserve most of a node each need both nodes; a third has no room, and the request is wrong."""
    joined = ray_node(cluster.env, cluster.folder, f"--address=127.0.0.1:{cluster.gcs}", "--node-ip-address=127.0.0.1")
    here = (f"cluster.address=127.0.0.1:{cluster.gcs}", "cluster.worker_cpus=1.5")
    try:
        _wait_for_nodes(cluster, 2)
        for workers, status in ((2, 0), (3, 2)):
            command = [sys.executable, *PHALANX[1:], "train", "demar_tag", *TINY, *here, f"cluster.workers={workers}"]
            done = subprocess.run(
                [*command, "--out", str(tmp_path / str(workers))],
                **{"cwd": ROOT, "env": cluster.env, "capture_output": True, "text": True, "timeout": 240},
            )
            assert done.returncode == status, done.stdout + done.stderr
            assert "Traceback" not in done.stderr
    finally:
        stop(joined)
