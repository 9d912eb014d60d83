from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from phalanx.cluster.cli import main
from phalanx.cluster.plot import bootstrap, default_metrics, interquartile_mean, lines_of, plot, read_curves, title_of
from phalanx.cluster.render import require_output_path, write_gif
from phalanx.configs.errors import UserError


def make_run(
    root: Path, name: str, values: list[float], seed: int = 0, algorithm: str = "qmix", shift: int = 0, **config: Any
) -> Path:
    folder = root / name
    folder.mkdir()
    settings = {"seed": seed, "env": {"name": "simple_tag"}, "algorithm": {"name": algorithm}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {"env_steps": 100 * i + shift, "updates": i, "wall_s": i, "eval/return_mean": v, "eval/contacts_mean": v / 2}
        for i, v in enumerate(values)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_evaluations(folder: Path, episodes: dict[int, list[float]]) -> None:
    steps = {f"step_{i}": {"step_count": at, "return": values} for i, (at, values) in enumerate(episodes.items())}
    steps["absolute_metrics"] = {"return": [99.0]}  # type: ignore[dict-item]
    (folder / "evaluations.json").write_text(json.dumps({"env": {"task": {"qmix": {"seed_0": steps}}}}))


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def has_colour(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(axis=-1) <= 8).sum() > 200)


BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def test_the_picture_has_a_panel_for_each_metric_and_a_line_for_each_group(tmp_path: Path) -> None:
    one = make_run(tmp_path, "one", [1.0, 4.0, 9.0])
    two = make_run(tmp_path, "two", [0.0, 2.0, 3.0], algorithm="demar")
    out = tmp_path / "curves.png"
    assert plot([one, two], out) == ["eval/return_mean", "eval/contacts_mean"]
    picture = pixels(out)
    height, width, _ = picture.shape
    assert (width, height) == (1620, 630)
    for half in (picture[:, : width // 2], picture[:, width // 2 :]):
        assert has_colour(half, BLUE)
        assert has_colour(half, VERMILION)
        assert (half.min(axis=-1) > 250).mean() > 0.5  # mostly paper
    single = tmp_path / "single.png"
    plot([one], single, "eval/return_mean")
    assert pixels(single).shape[1] == 1020
    assert not has_colour(pixels(single), VERMILION)


def test_the_same_runs_give_the_same_picture(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"r{seed}", [seed, 2.0 + seed, 5.0], seed=seed) for seed in range(3)]
    for name in ("a.png", "b.png"):
        plot(runs, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_runs_that_differ_by_seed_or_resources_become_one_line(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, f"r{seed}", [0.0, 10.0 * seed], seed=seed, cluster={"workers": seed + 1})
        for seed in range(2)
    ]
    (line,) = lines_of([read_curves(run) for run in runs], "eval/return_mean")
    assert line.label == "QMIX (mean of 2 seeds)"
    assert line.middle.tolist() == [0.0, 5.0]
    assert line.low is not None
    assert line.high is not None
    assert (line.low[1], line.high[1]) == (0.0, 10.0)


def test_three_seeds_and_more_use_the_interquartile_mean(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"r{seed}", [v, v], seed=seed) for seed, v in enumerate((0.0, 1.0, 2.0, 100.0))]
    (line,) = lines_of([read_curves(run) for run in runs], "eval/return_mean")
    assert line.label == "QMIX (IQM of 4 seeds)"
    assert line.middle.tolist() == [1.5, 1.5]


def test_runs_that_were_read_at_other_env_steps_meet_on_common_ones(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"r{s}", [0.0, 1.0, 2.0], seed=s, shift=10 * s) for s in range(2)]
    (line,) = lines_of([read_curves(run) for run in runs], "eval/return_mean")
    assert line.env_steps[0] == 10
    assert line.env_steps[-1] == 200
    assert line.middle[0] == pytest.approx((0.1 + 0.0) / 2)


def test_labels_tell_groups_apart(tmp_path: Path) -> None:
    qmix = make_run(tmp_path, "a", [1.0, 2.0], mixer={"embed": 32})
    demar = make_run(tmp_path, "b", [1.0, 2.0], algorithm="demar", mixer={"embed": 32})
    wide = make_run(tmp_path, "c", [1.0, 2.0], mixer={"embed": 64})

    def labels(*folders: Path) -> list[str]:
        return [line.label for line in lines_of([read_curves(folder) for folder in folders], "eval/return_mean")]

    assert labels(qmix, demar) == ["QMIX", "DEMAR"]
    assert labels(qmix, wide) == ["QMIX, mixer.embed=32", "QMIX, mixer.embed=64"]
    (wide / "config.yaml").unlink()
    assert labels(qmix, wide) == ["a", "c"]


def test_one_run_gets_its_interval_from_its_episodes(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", [1.0, 2.0])
    write_evaluations(folder, {0: [0.0, 2.0, 1.0, 1.0], 100: [2.0] * 4, 200: [3.0] * 4})
    (line,) = lines_of([read_curves(folder)], "eval/return_mean")
    assert line.env_steps.tolist() == [0, 100, 200]  # evaluations.json has one that no report carried
    assert line.middle.tolist() == [1.0, 2.0, 3.0]
    assert line.low is not None
    assert line.high is not None
    assert line.low[0] < 1.0 < line.high[0]
    assert line.low[1] == line.high[1] == 2.0


def test_an_evaluation_stands_at_the_env_steps_of_its_weights(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", [1.0])
    row = {"env_steps": 500, "eval/env_steps": 400, "eval/return_mean": 3.0, "train/loss_td": None}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    curves = read_curves(folder)
    assert curves.series["eval/return_mean"][0].tolist() == [0, 400]
    assert "train/loss_td" not in curves.series  # never finite


def test_the_win_rate_comes_before_other_metrics(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", [1.0])
    row = {"env_steps": 100, "eval/return_mean": 1.0, "eval/return_std": 1, "eval/win_rate": 0.5, "eval/z_mean": 1}
    (folder / "metrics.jsonl").write_text(json.dumps({**row, "eval/a_mean": 1.0, "eval/length_mean": 2}) + "\n")
    assert default_metrics([read_curves(folder)]) == ["eval/return_mean", "eval/win_rate", "eval/a_mean"]


def test_interquartile_mean_weighs_values_at_the_quarter_marks() -> None:
    assert interquartile_mean(np.array([4.0, 1.0, 2.0, 3.0])) == pytest.approx(2.5)
    assert interquartile_mean(np.array([0.0, 1.0, 50.0])) == pytest.approx((0.25 * 0 + 1 * 1 + 0.25 * 50) / 1.5)
    assert interquartile_mean(np.arange(8.0)) == pytest.approx(3.5)
    assert interquartile_mean(np.array([7.0])) == 7.0


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(size=(200, 30))
    low, high = bootstrap(draws, robust=False)
    covered = ((low < 0) & (high > 0)).mean()
    assert 0.88 <= covered <= 0.99


def test_the_title_says_what_was_played(tmp_path: Path) -> None:
    one = make_run(tmp_path, "a", [1.0])
    battles = [make_run(tmp_path, f"b{i}", [1.0], env={"name": "smax", "scenario": s}) for i, s in enumerate("xy")]
    listed = make_run(tmp_path, "c", [1.0], env={"name": "smax", "scenario": {"allies": {"marine": 2}}})
    for folders, title in (
        ([one], "QMIX on simple_tag"),
        (battles[:1], "QMIX on smax x"),
        (battles, "Learning curves"),
        ([listed], "QMIX on smax"),
    ):
        assert title_of([read_curves(folder) for folder in folders]) == title


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        plot([tmp_path / "nowhere"], tmp_path / "x.png")


def test_folders_that_are_no_runs_and_unknown_metrics_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no metrics\.jsonl"):
        plot([tmp_path], tmp_path / "x.png")
    folder = make_run(tmp_path, "a", [1.0])
    with pytest.raises(UserError, match=r"has the metric eval/wins; it has eval/contacts_mean, eval/return_mean"):
        plot([folder], tmp_path / "x.png", "eval/wins")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no metrics yet"):
        plot([folder], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_picture_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/proc")  # it has no room for files, not even root's
    assert main(["plot", str(make_run(tmp_path, "a", [1.0])), "--out", "x.png"]) == 2
    assert "x.png cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x.jpg", r"must be a file whose name ends in \.png or \.pdf"),
        ("x", r"must be a file whose name ends in"),
        ("nowhere/x.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ],
)
def test_picture_paths_are_checked_before_the_work(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=sentence):
        require_output_path(tmp_path / name, (".png", ".pdf"), "--out")
    require_output_path(tmp_path / "x.PNG", (".png", ".pdf"), "--out")


def test_a_film_has_every_frame_at_its_pace(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), (30 * i, 0, 200), dtype=np.uint8) for i in range(8)]
    write_gif(tmp_path / "film.gif", frames)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (30, 20)
        assert film.n_frames == 8
        assert film.info["duration"] == 80
        assert film.info["loop"] == 0
        film.seek(5)
        colour = film.convert("RGB").getpixel((3, 3))
    assert isinstance(colour, tuple)
    assert max(abs(a - b) for a, b in zip(colour, (150, 0, 200), strict=True)) <= 12


def test_runs_are_named_as_asked_and_equal_names_are_one_line(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, name, [1.0, 4.0], algorithm=name) for name in ("qmix", "vdn", "iql")]
    runs = [read_curves(folder) for folder in folders]
    for run, name in zip(runs, ("first", "second", "second"), strict=True):
        run.name = name
    runs[1].settings = runs[2].settings
    assert [line.label for line in lines_of(runs, "eval/return_mean")] == ["first", "second (mean of 2 seeds)"]


def test_a_long_legend_leaves_the_panels_alone(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, name, [1.0, 4.0], algorithm=name) for name in ("qmix", "vdn")]
    short, long = tmp_path / "short.png", tmp_path / "long.png"
    plot(folders, short, names=["a", "b"])
    plot(folders, long, names=["a" * 60, "b" * 60])
    below = slice(-90, None)
    assert not has_colour(pixels(short)[below], VERMILION)
    assert (np.abs(pixels(long)[below].astype(int) - VERMILION).max(axis=-1) <= 8).any()
