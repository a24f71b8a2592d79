"""Frame controls: which frames a method is shown, the same for every clip id; what changes stands beside its row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import GivenFeatures, annotation_rows, write_dataset

from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import open_dataset
from fsar_bench.data.decode import ReadPlan
from fsar_bench.data.frames import frame_source
from fsar_bench.engine.bank import BankStore, build_bank
from fsar_bench.engine.controls import differences, order_of_frames, reorder
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.leaderboard.exports import records
from fsar_bench.leaderboard.tables import frame
from fsar_bench.method import FewShotMethod, Traits, VideoFeatures
from fsar_bench.progress.events import listening

PIXELS = '''
from fsar_bench.method import METHODS, FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.matching import build_matcher


@METHODS.register_module()
class OfPixels(FewShotMethod):
    """As a frozen metric, but with an `embed` of its own: what it is shown are frames, not features."""

    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=True)

    def __init__(self, backbone, matcher):
        super().__init__(backbone)
        self.matcher = build_matcher(matcher, backbone.embedding_width)

    def embed(self, frames, class_text):
        return VideoFeatures(frames=self.backbone.encode_frames(frames))

    def score(self, support, query, class_text):
        return Scores(-self.matcher(query.frames, support.frames))
'''
CONFIG = """
custom_imports = ["of_pixels"]
title = "Of pixels"
method = dict(type="OfPixels", matcher=dict(type="OTAM", smoothing=0.1, bidirectional=True, epsilon=0.01))
"""


def test_shuffled_order_is_of_the_clip_alone_and_never_its_own():
    orders = order_of_frames("shuffled", "query", [f"clip{n}" for n in range(500)], 3)
    assert all(sorted(order) == [0, 1, 2] and order != [0, 1, 2] for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 5  # all others appear
    again = order_of_frames("shuffled", "support", ["clip7", "clip3"], 3)
    assert again.tolist() == orders[[7, 3]].tolist()
    assert order_of_frames("shuffled", "query", ["only"], 1).tolist() == [[0]]


def test_reversed_queries_middle_frames_and_frames_as_they_are():
    assert order_of_frames("reversed", "query", ["a", "b"], 4).tolist() == [[3, 2, 1, 0]] * 2
    assert order_of_frames("reversed", "support", ["a"], 4) is None
    assert order_of_frames("middle", "support", ["a"], 8).tolist() == [[4] * 8]
    for kind in ("as_is", "differences"):
        assert order_of_frames(kind, "query", ["a"], 4) is None
    video = torch.arange(8).view(2, 4, 1)
    assert reorder(video, torch.tensor([[3, 2, 1, 0], [0, 0, 1, 1]])).flatten().tolist() == [3, 2, 1, 0, 4, 4, 5, 5]


def test_differences_of_neighbours():
    features = differences(VideoFeatures(frames=torch.tensor([[[1.0], [4.0], [9.0]]])))
    assert features.frames.tolist() == [[[3.0], [5.0]]]
    with pytest.raises(NotApplicableError, match="frames_as=differences needs features of frames or maps"):
        differences(VideoFeatures(video=torch.zeros(1, 4)))


def test_reordered_features_are_those_of_reordered_frames(run_tiny, tmp_path):
    (tmp_path / "of_pixels.py").write_text(PIXELS)
    (tmp_path / "pixels.py").write_text(CONFIG)
    kinds = ["shuffled", "reversed", "middle"]
    results = run_tiny([str(tmp_path / "pixels.py"), "otam_frozen"], frames_as=kinds, controls=False)
    predicted = {(r.result.name, r.result.protocol.frames_as): r.predictions() for r in results}
    assert len(predicted) == 8
    for kind in ("as_is", *kinds):
        assert (predicted["pixels", kind] == predicted["otam_frozen", kind]).all()
    for kind in kinds:
        assert (predicted["pixels", kind] != predicted["pixels", "as_is"]).any()


def test_a_control_stands_beside_its_row_with_what_it_changes(run_tiny, tmp_path):
    run_tiny(["bi_mhm_frozen", "otam_frozen"], frames_as=["shuffled", "differences"], controls=False, episodes=300)
    results = load_results(tmp_path / "leaderboards")
    accuracy = {(r.result.name, r.result.protocol.frames_as): r.result.metrics.accuracy for r in results}
    (board,) = results.boards
    assert len(board) == 2
    rows = {row["method"]: row for row in records([board])}
    for name, row in rows.items():
        for kind in ("shuffled", "differences"):
            assert row[f"change_{kind}"] == pytest.approx(accuracy[name, kind] - accuracy[name, "as_is"], abs=1e-3)
    assert (rows["bi_mhm_frozen"]["change_shuffled"], rows["bi_mhm_frozen"]["half_width_shuffled"]) == (0, 0)
    assert rows["bi_mhm_frozen"]["blind_to_order"] is True
    assert rows["otam_frozen"]["change_reversed"] is None
    table = frame(board).set_index("method")
    assert table.loc["Bi-MHM, frozen", "shuffled"] == "+0.0 ± 0.0 blind"
    assert "reversed" not in table


def test_half_width_of_a_change_covers_the_queries_that_changed(run_tiny, tmp_path):
    """Over episodes alone, the paired variance is that of the mean of the differences; over clips it is not smaller."""
    run_tiny(["otam_frozen"], frames_as="reversed", controls=False, episodes=300)
    (board,) = load_results(tmp_path / "leaderboards").boards
    (row,) = board.rows
    (control,) = row.controls
    off = (control.right().astype(float) - row.right()).mean(1)
    over_episodes = 1.96 * 100 * off.std(ddof=1) / np.sqrt(len(off))
    change = board.entries[0].statistics.controls["reversed"]
    assert change.difference == pytest.approx(100 * off.mean(), abs=1e-3)
    assert change.half_width > 0.9 * over_episodes > 0


def test_training_is_shared_and_controls_without_their_row_are_in_no_table(run_tiny, tmp_path):
    results = run_tiny(["clip_fsar"], frames_as="shuffled", controls=False)
    assert len({r.result.training_key for r in results}) == 1
    for stored in results:
        if stored.result.protocol.frames_as == "as_is":
            (stored.folder / "result.json").unlink()
    told: list[str] = []
    with listening(lambda event: told.append(event.note)):
        assert load_results(tmp_path / "leaderboards").boards == []
    assert "In no table, as the same row with its frames as they are is missing: CLIP-FSAR on tiny" in "".join(told)


def test_frames_as_they_are_are_added_and_kinds_are_checked():
    cells = resolve(["methods=otam_frozen", "frames_as=shuffled", "controls=false"]).cells
    assert [cell.protocol.frames_as for cell in cells] == ["as_is", "shuffled"]
    assert cells[0].hash == resolve(["methods=otam_frozen", "controls=false"]).cells[0].hash
    assert str(cells[1]).endswith(", frames shuffled")
    with pytest.raises(ConfigError, match="frames_as"):
        resolve(["methods=otam_frozen", "frames_as=backwards"])


def test_layers_that_are_sized_for_the_frames_refuse_differences(run_tiny):
    with pytest.raises(Exception, match="frames_as=differences gives one step less than there are frames"):
        run_tiny(["strm"], frames_as="differences", controls=False)


def test_statistics_of_train_do_not_keep_a_method_from_differences(run_tiny):
    results = run_tiny(["simpleshot_cl2n", "tied_gaussian_train"], frames_as="differences", controls=False, episodes=50)
    kinds = {(r.result.name, r.result.protocol.frames_as) for r in results}
    assert len(kinds) == 4


def test_texts_do_not_keep_a_method_from_differences(backbone):
    from fsar_bench.engine.controls import check_takes_differences
    from fsar_bench.methods.clip_fsar import CLIPFSAR
    from fsar_bench.methods.trn import TRN

    otam = {"type": "OTAM", "smoothing": 0.5}
    check_takes_differences(CLIPFSAR(backbone, otam, ffn_width=32), 4)
    with pytest.raises(NotApplicableError, match="TRN was built for 4 frames"):
        check_takes_differences(TRN(backbone, frames=4), 4)


class MeanPixel(FewShotMethod):
    """An embedding of its own, which is stored."""

    role_free = True
    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=True)

    def embed(self, frames, class_text):
        return VideoFeatures(frames=frames.float().mean((-3, -2, -1))[..., None])


def test_stored_features_of_a_shuffled_clip_are_those_of_its_id(tmp_path):
    """The same clips under other ids are shuffled otherwise: what is stored of the first is not taken for the second."""
    table = annotation_rows()
    renamed = {**table, "clips": [{**clip, "id": f"other_{clip['id']}"} for clip in table["clips"]]}
    splits = []
    for name, rows in (("a", table), ("b", renamed)):
        write_dataset(tmp_path / f"{name}.py", rows)
        splits.append(open_dataset(name=name, annotation=str(tmp_path / f"{name}.json")).split("test"))
    method, store = MeanPixel(GivenFeatures(1)), BankStore(tmp_path / "bank", "key")
    plan = ReadPlan(reader="pyav", resize=32, crop=32, frames=4)
    with frame_source(plan, workers=0, seconds=60) as source:

        def bank(split, kept):
            clips, text = np.arange(3), torch.zeros(len(split.list.classes), 0)
            return build_bank(method, split, clips, text, source, frames_as="shuffled", store=kept).query.frames

        bank(splits[0], store)
        assert torch.equal(bank(splits[1], store), bank(splits[1], None))
        assert torch.equal(bank(splits[0], store), bank(splits[0], None))
        assert not torch.equal(bank(splits[0], None), bank(splits[1], None))
