"""The files in docker/ are well formed, ask for the token, and pin what constraints.txt pins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def test_compose_gives_every_service_the_token() -> None:
    (compose,) = documents("compose.yaml")
    assert set(compose["services"]) == {"head", "worker"}
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])


def test_kubernetes_gives_every_pod_the_token() -> None:
    claim, cluster = documents("kuberay.yaml")
    assert cluster["spec"]["rayVersion"] == PINS["ray"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        env = {entry["name"]: entry for entry in container["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "phalanx-ray-token"
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_ray_accepts_the_cluster_file() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    (config,) = documents("ray-cluster.yaml")
    util.validate_config(util.prepare_config(config))
    starts = [c for key in ("head", "worker") for c in config[f"{key}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any(f"torch=={PINS['torch']}" in command for command in config["setup_commands"])


def test_nothing_switches_the_token_off() -> None:
    for path in DOCKER.iterdir():
        assert not re.search(r"RAY_AUTH_MODE[=:]\s*[\"']?(?!token)\w", path.read_text()), path


def test_image_copies_every_folder() -> None:
    copied = set(re.findall(r"^COPY (\S+) /opt/phalanx/\1$", (DOCKER / "Dockerfile").read_text(), re.M))
    assert copied == {"phalanx", *(p.name for p in (ROOT / "phalanx").iterdir() if p.is_symlink())}


def test_image_with_the_game_is_what_its_page_says() -> None:
    text, page = (DOCKER / "smac.Dockerfile").read_text(), (ROOT / "docs" / "smac.md").read_text()
    for package in ("pys2clientprotocol", "pysc2"):
        (pin,) = set(re.findall(rf"\b{package}==[\d.]+", text))
        assert pin in page
    (commit,) = re.findall(r"^ARG SMAC_COMMIT=(\w+)$", text, re.M)
    assert f"oxwhirl/smac.git@{commit}" in page
    assert re.search(r"^ARG BASE=phalanx$", text, re.M) and re.findall(r"^USER (\w+)$", text, re.M)[-1] == "phalanx"
    assert re.search(r"^ARG SC2_PASSWORD$", text, re.M), "who builds the image accepts the licence, not this file"
    assert "pip install smac" not in text + page
