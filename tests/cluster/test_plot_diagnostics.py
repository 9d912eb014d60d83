from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from phalanx.cluster.cli import main
from phalanx.cluster.metrics import FIGURES
from phalanx.cluster.plot import read_curves
from phalanx.cluster.plot_diagnostics import PANELS, plot_diagnostics, warned
from phalanx.cluster.signatures import SIGNATURES
from phalanx.configs.errors import UserError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "diagnostics.md"
BLUE, VERMILION, SHADE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xFF, 0xE3, 0xD3)
MIXED = [name for name in FIGURES if name not in ("agents_spread", "argmax_agreement", "agent_gradient_cosine")]


def make_run(
    root: Path, name: str, figures: list[str], algorithm: str = "demar", seed: int = 0, warnings: str = ""
) -> Path:
    """Four reports; `warnings`: 0 or 1 for each, of q_explosion."""
    folder = root / name
    folder.mkdir()
    settings = {"seed": seed, "env": {"name": "simple_tag"}, "algorithm": {"name": algorithm}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows: list[dict[str, float]] = []
    for i in range(4):
        rows.append({"env_steps": 100 * i, "updates": i, **{f"train/{f}": 0.2 * (i + 1 + seed) for f in figures}})
        if warnings:
            rows[-1]["warning/q_explosion"] = int(warnings[i])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def count(picture: np.ndarray[tuple[int, ...], np.dtype[np.int64]], colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - colour).max(axis=-1) <= 3).sum())


def test_every_figure_of_a_report_is_drawn() -> None:
    drawn = {key for panel in PANELS for key in (*panel.keys, *(panel.band or ()))}
    # the mean beside the median, the two that a line shows already, and the one that reports do not have
    assert set(FIGURES) - drawn == {"dqtot_dqi_mean", "overestimation", "return_scale", "agent_gradient_cosine"}
    assert drawn <= set(FIGURES)
    assert {panel.warning for panel in PANELS} - {None} == set(SIGNATURES)


def test_panels_of_figures_that_no_run_has_are_left_out(tmp_path: Path) -> None:
    mixed = make_run(tmp_path, "mixed", MIXED)
    summed = make_run(tmp_path, "summed", ["q_start_mean", "mc_return_mean", "snd", "dead_units"], "vdn")
    out = tmp_path / "x.png"
    keys = plot_diagnostics([mixed], out)
    assert "train/dqtot_dqi_p90" in keys
    assert "train/agents_spread" not in keys
    tall = pixels(out).shape
    assert plot_diagnostics([summed], out) == [
        *("train/q_start_mean", "train/mc_return_mean", "train/snd", "train/dead_units")
    ]
    low = pixels(out).shape
    assert low[1] == tall[1] == 1800
    assert low[0] < tall[0]


def test_groups_have_colours_and_warnings_are_shaded(tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    quiet = make_run(tmp_path, "quiet", MIXED, warnings="0000")
    plot_diagnostics([quiet], out)
    assert count(pixels(out), BLUE) > 500
    assert count(pixels(out), VERMILION) == 0
    assert count(pixels(out), SHADE) == 0
    loud = make_run(tmp_path, "loud", MIXED, "qmix", warnings="0011")
    plot_diagnostics([quiet, loud], out)
    assert count(pixels(out), VERMILION) > 500
    assert count(pixels(out), SHADE) > 20_000


def test_a_warning_holds_from_report_to_report(tmp_path: Path) -> None:
    def held(name: str, warnings: str) -> list[tuple[float, float]]:
        return warned(read_curves(make_run(tmp_path, name, MIXED, warnings=warnings)), "q_explosion")

    assert held("never", "0000") == held("unknown", "") == []
    assert held("once", "0110") == [(100, 300)]
    assert held("still", "1011") == [(0, 100), (200, 300)]


def test_seeds_become_one_line(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"r{seed}", MIXED, seed=seed) for seed in range(3)]
    plot_diagnostics(runs, tmp_path / "x.png")
    assert count(pixels(tmp_path / "x.png"), VERMILION) == 0


def test_runs_without_figures_are_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = make_run(tmp_path, "bare", [])
    with pytest.raises(UserError, match="has diagnostics: wait for the first report after an update"):
        plot_diagnostics([bare], tmp_path / "x.png")
    assert main(["plot", str(bare), "--diagnostics", "--out", str(tmp_path / "x.png")]) == 2
    assert "has diagnostics" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_every_figure_and_warning_is_documented() -> None:
    text = DOCS.read_text()
    for name in (*FIGURES, *SIGNATURES):
        stem, _, suffix = name.rpartition("_")
        short = suffix in ("p10", "p50", "p90", "w2", "b1", "v") and f"`_{suffix}`" in text and f"`{stem}_" in text
        assert f"`{name}`" in text or short, name
