"""Fingerprints of the published lists, from a copy of them: `python -m tools.lineages DATASET LINEAGE TITLE FOLDER ...`.

Writes lineages.json and lineages.npz to fsar_bench/data/importing/known/. The lists themselves do not ship. Four arguments
per list; for example
`python -m tools.lineages kinetics100 cmn "Kinetics-100, CMN lineage" ~/CMN/kinetics-100`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fsar_bench.data.importing.classes import KNOWN
from fsar_bench.data.importing.lists import read_lists, short_hashes


def main() -> int:
    if len(sys.argv) < 5 or (len(sys.argv) - 1) % 4:
        print(__doc__, file=sys.stderr)
        return 1
    table: dict[str, dict] = {}
    hashes: dict[str, np.ndarray] = {}
    for dataset, lineage, title, folder in zip(*(iter(sys.argv[1:]),) * 4, strict=True):
        read = read_lists(dataset, Path(folder))
        table.setdefault(dataset, {})[lineage] = {
            "title": title,
            "fingerprints": {split: read.fingerprint(split) for split in read.rows},
            "counts": {split: [len({name for name, _ in rows}), len(rows)] for split, rows in read.rows.items()},
        }
        hashes |= {f"{dataset}|{lineage}|{split}": short_hashes(rows) for split, rows in read.rows.items()}
        print(dataset, lineage, table[dataset][lineage]["counts"])
    (KNOWN / "lineages.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    np.savez(KNOWN / "lineages.npz", **hashes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
