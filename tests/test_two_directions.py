"""The dataset of the direction test: classes forwards and backwards, the same moments, no clip in both."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from helpers import annotation_rows

from fsar_bench.config.files import load
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.readers import VideoReader
from fsar_bench.data.sampling import midpoints
from tools import two_directions


@pytest.fixture
def source(tmp_path):
    """An annotation of two shipped classes with three and four clips, without reverses."""
    table = annotation_rows(classes_per_split=2, clips=4)
    names = [row["name"] for row in table["classes"] if row["split"] == "test"]
    classes = [{"name": name, "text": name, "split": "test"} for name in names]
    clips = [{**row, "recording": f"of {row['id']}"} for row in table["clips"] if row["class"] in names][1:]
    path = tmp_path / "clips.json"
    path.write_text(json.dumps({"classes": classes, "clips": clips}))
    return path


def images(folder) -> list[np.ndarray]:
    return [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())]


def test_halves_of_a_class_play_in_opposite_directions(source, tmp_path):
    config = two_directions.write(source, tmp_path / "both", frames=4)
    table = json.loads((tmp_path / "both" / "annotation.json").read_text())
    dataset = Dataset("both", str(tmp_path / "both" / "annotation.json"))
    assert dataset.frames
    assert load("datasets", str(config)).values["dataset"]["name"] == "both"
    clips = json.loads(source.read_text())["clips"]
    assert sorted(clip["id"] for clip in table["clips"]) == sorted(clip["id"] for clip in clips)  # each once
    assert {clip["recording"] for clip in table["clips"]} == {clip["recording"] for clip in clips}
    names = [row["name"] for row in json.loads(source.read_text())["classes"]]
    counts = Counter(clip["class"] for clip in table["clips"])
    assert sorted(counts[name] for name in names) == [2, 2]
    assert sorted(counts[f"{name}, backwards"] for name in names) == [1, 2]
    reverse = {row["name"]: row["reverse_of"] for row in table["classes"]}
    assert all(reverse[reverse[name]] == name != reverse[name] for name in reverse)
    paths = {clip["id"]: clip["path"] for clip in clips}
    for clip in table["clips"]:
        reader = VideoReader()
        opened = reader.open(paths[clip["id"]])
        frames = reader.read(opened, midpoints(opened["total_frames"], 4), resize=two_directions.SIDE, crop=None)
        if clip["class"].endswith(", backwards"):
            frames = frames[::-1]
        kept = images(tmp_path / "both" / clip["path"])
        distance = np.array([[np.abs(a.astype(int) - b).mean() for b in frames] for a in kept])
        assert distance.argmin(1).tolist() == [0, 1, 2, 3]
        assert distance.diagonal().max() < 4  # of 255: JPEG


def backwards_of(annotation, folder, seed: int) -> set[str]:
    two_directions.write(annotation, folder, frames=1, seed=seed)
    clips = json.loads((folder / "annotation.json").read_text())["clips"]
    return {clip["id"] for clip in clips if clip["class"].endswith(", backwards")}


def test_halves_are_drawn_whatever_the_order_of_the_list(source, tmp_path):
    table = json.loads(source.read_text())
    backwards = backwards_of(source, tmp_path / "a", 0)
    source.write_text(json.dumps({**table, "clips": table["clips"][::-1]}))
    assert backwards_of(source, tmp_path / "b", 0) == backwards
    drawn = {frozenset(backwards_of(source, tmp_path / str(seed), seed)) for seed in range(1, 13)}
    assert len(drawn) > 6  # of the 18 pairs of halves, of 4 and 3 clips


def test_folders_of_images_are_read_as_videos_are(source, tmp_path, capsys):
    """Its own output, taken as it is: the clips that were played backwards are read in their new order."""
    two_directions.write(source, tmp_path / "first", frames=4)
    path = tmp_path / "first" / "annotation.json"
    table = json.loads(path.read_text())
    for row in table["classes"]:
        del row["reverse_of"]
    path.write_text(json.dumps(table))
    assert two_directions.main([str(path), str(tmp_path / "second")]) == 1
    assert ", backwards' already. Rename it." in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    path.write_text(path.read_text().replace(", backwards", ", mirrored"))
    table = json.loads(path.read_text())
    two_directions.write(path, tmp_path / "second", frames=4)
    again = json.loads((tmp_path / "second" / "annotation.json").read_text())
    before = {clip["id"]: clip["path"] for clip in table["clips"]}
    assert {clip["id"] for clip in again["clips"]} == set(before)
    for clip in again["clips"]:
        was, now = images(tmp_path / "first" / before[clip["id"]]), images(tmp_path / "second" / clip["path"])
        order = now[::-1] if clip["class"].endswith(", backwards") else now
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(was, order, strict=True)) < 3


def test_what_cannot_be_played_backwards_is_refused(source, tmp_path, capsys):
    table = json.loads(source.read_text())
    first, second = table["classes"]
    first["reverse_of"], second["reverse_of"] = second["name"], first["name"]
    source.write_text(json.dumps(table))
    assert two_directions.main([str(source), str(tmp_path / "both")]) == 1
    assert "has a reverse already" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    (tmp_path / "there").mkdir()
    assert two_directions.main([str(source), str(tmp_path / "there")]) == 1
    assert "exists already" in capsys.readouterr().err
