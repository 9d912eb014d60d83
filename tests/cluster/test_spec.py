"""The team's spec comes back from a checkpoint as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from phalanx.cluster import snapshot
from phalanx.cluster.progress import Progress
from phalanx.cluster.run_folder import CATALOGUE
from phalanx.configs.errors import UserError
from phalanx.configs.load import run_from_dict
from phalanx.envs.registry import make_env
from phalanx.envs.team import EntityView, TeamSpec


def written(spec: TeamSpec, folder: Path) -> Path:
    run = run_from_dict({"env": {"name": "simple_tag"}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE)
    snapshot.Snapshot(run, spec, Progress(), {}, {}).write(folder)
    return folder / snapshot.SPEC


@pytest.mark.parametrize("name", ["matrix", "simple_tag", "simple_spread", "stag_hunt"])
def test_a_spec_comes_back(name: str, tmp_path: Path) -> None:
    run = run_from_dict({"env": {"name": name}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE)
    spec = make_env(run.env, 1).spec
    written(spec, tmp_path)
    back = snapshot.read_spec(tmp_path)
    assert back == spec and (back.entities is None) == (name == "matrix")
    assert hash(back.entities) == hash(spec.entities)  # tuples all the way down


def test_a_view_with_everything_comes_back(tmp_path: Path) -> None:
    view = EntityView(own=(0,), enemies=((1,), (2,)), objects=((3,),), object_marks=((0.5,),), enemy_actions=(2, 1))
    run = run_from_dict({"env": {"name": "simple_tag"}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE)
    spec = replace(make_env(run.env, 1).spec, entities=view)
    written(spec, tmp_path)
    assert snapshot.read_spec(tmp_path) == spec


@pytest.mark.parametrize("wrong", [{"own": [0], "neighbours": []}, [1, 2], {"own": [99]}])
def test_another_versions_view_is_a_sentence(wrong: object, tmp_path: Path) -> None:
    run = run_from_dict({"env": {"name": "simple_tag"}, "algorithm": {"name": "vdn"}}, catalogue=CATALOGUE)
    file = written(make_env(run.env, 1).spec, tmp_path)
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "entities": wrong}))
    with pytest.raises(UserError, match=r"spec\.json was written by another version of phalanx"):
        snapshot.read_spec(tmp_path)
