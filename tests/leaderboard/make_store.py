"""The mini store of the golden files, and the golden files: `python tests/leaderboard/make_store.py` writes them again.

Eight rows on one board (one with two training seeds, one on incomplete data, one that ran on a GPU, one with submitted
predictions), two at another shot, and one of a real dataset's name whose setting the literature has.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
STORE, GOLDEN = HERE / "store", HERE / "golden"
NO_COST: dict = {"seconds": {}, "videos": None, "memory": None}
sys.path.insert(0, str(HERE.parent))


def make(root: Path) -> None:
    """Write the results and plans."""
    from stores import make_plan, predictions, store

    plan, later = make_plan(), make_plan(shot=2)
    short = make_plan(missing=frozenset({"c0_03", "c4_07"}))
    for number, (name, accuracy, title) in enumerate(
        [
            ("strong", 0.9, "Strong & sound"),
            ("close", 0.88, "Close_run"),
            ("control", 0.6, "Control 100 %"),
            ("zero_shot", 0.55, "Text"),
        ]
    ):
        store(root, name, predictions(plan, accuracy, number), plan, title=title, pairs=True)
        if number < 2:
            store(root, name, predictions(later, accuracy, 10 + number), later, title=title, pairs=True)
    for seed in (0, 1):
        train = {"episodes": 10, **({"seed": seed} if seed else {})}
        store(root, "trained", predictions(plan, 0.8, 20 + seed), plan, title="Trained", train=train, pairs=True)
    store(root, "gaps", predictions(short, 0.7, 30), short, title="On gaps", coverage=70 / 72, pairs=True)
    memory = {"host": 900.0, "device": 4768.0}
    store(root, "on_gpu", predictions(plan, 0.85, 50), plan, title="On a GPU", pairs=True, cost={"memory": memory})
    elsewhere = predictions(plan, 0.75, 60)
    store(root, "other", elsewhere, plan, title="Elsewhere", pairs=True, submitted=True, reader="cv2 4", cost=NO_COST)
    real = make_plan(way=5, episodes=30)
    store(
        root,
        "ma_clip",
        predictions(real, 0.8, 40),
        real,
        dataset="hmdb51",
        title="MA-CLIP",
        backbone="vit_b_16",
        synthetic=False,
    )


def outputs(root: Path) -> dict[str, str]:
    """Text of every generated file, and the data of the page."""
    from fsar_bench.leaderboard.files import generated_files, read_boards
    from fsar_bench.leaderboard.page import page_data
    from fsar_bench.leaderboard.published import read_published

    boards, published = read_boards(root), read_published(root)
    out = {path.name: text for path, text in generated_files(root, boards)}
    out["page.json"] = json.dumps(page_data(boards, published), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return out


if __name__ == "__main__":
    for folder in (STORE, GOLDEN):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    # A few published figures, so that the golden files do not change with the literature.
    lines = (HERE.parents[1] / "leaderboards" / "published.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if ",HMDB51,5,1," in line and "arXiv 2308.01532v1 Table 1" in line][:12]
    (STORE / "published.csv").write_text("\n".join([lines[0], *kept, ""]))
    make(STORE)
    for name, text in outputs(STORE).items():
        (GOLDEN / name).write_text(text)
