"""methods/README.md: cards and parameter counts of all methods, from their code. `--check` fails if the page is stale.

python -m tools.methods_table [--check]
"""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path

import pandas as pd
import torch

from fsar_bench.backbones import Backbone
from fsar_bench.config.cards import FIELDS, card
from fsar_bench.config.resolve import load, names, resolve
from fsar_bench.errors import ConfigError
from fsar_bench.registry import BACKBONES, METHODS, build

PAGE = Path(__file__).parents[1] / "methods" / "README.md"
COUNTED = ("vit_b_32", "vit_b_16", "rn50", "resnet50", "synthact_clip")
CLASSES = 64  # training classes, for heads that have one row a class
TABLE_4 = [  # of arXiv 2308.01532: label, tunable M, all M
    ("Frozen", 3.15, 154.43),
    ("Fine-tuned visual-only", 90.99, 154.43),
    ("Frozen + multimodal adaptation", 7.94, 159.21),
    ("+ temporal adaptation", 15.04, 166.31),
    ("+ joint adaptation", 18.54, 169.81),
]
INTRO = """# Methods

One file a method, importing only `fsar_bench`; a method that is a backbone and a matcher is a config alone (class
`MetricMethod`). This page is made from the code and its docstrings by `python -m tools.methods_table`. `fsar-bench check
NAME` tests a method's contract, `fsar-bench list methods --verbose` prints its card.
"""
EXPLAINED = """The two rows without adapters and the whole model agree to the printed digits (90,999,040 is printed as
90.99). The steps between them do not: the paper's are 4.79, 7.10 and 3.50 M, ours 8.28, 3.55 and 3.55 M; both sum to
15.39 M. 7.10 M are two adapters in every block, so the paper may count the multimodal adapter with the temporal row, and with
the multimodal row the text layers alone (4.73 M). That would leave 0.06 M of its first step and -0.05 M of its last
without a reading of ours; the two cancel, and we leave them open."""


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights: counting needs no others."""
    return build(BACKBONES, {**load("backbones", name)[0]["backbone"], "pretrained": None})


def counts(config: dict, backbone: Backbone) -> tuple[float, float] | None:
    """Trainable and all parameters in millions of a method's config on a backbone; None where it cannot be used."""
    try:
        method = build(METHODS, copy.deepcopy(config), backbone=backbone)
    except ConfigError:
        return None
    if method.traits.uses_class_names and not backbone.has_text:
        return None
    method.prepare(torch.zeros(CLASSES, 0))
    found = method.parameter_counts()
    return found["trainable"] / 1e6, found["total"] / 1e6


def traits(config: dict, backbone: Backbone) -> str:
    method = build(METHODS, copy.deepcopy(config), backbone=backbone)
    said = {"class names": method.traits.uses_class_names, "frame order": method.traits.order_sensitive}
    return ", ".join(name for name, held in said.items() if held) or "–"


def page() -> str:
    METHODS.import_from_location()
    backbones = {name: build_backbone(name) for name in COUNTED}
    configs = {name: load("methods", name)[0]["method"] for name in names("methods")}
    cards = {name: card(name) for name in configs}
    rows = []
    for name, config in configs.items():
        found = {b: counts(config, backbone) for b, backbone in backbones.items()}
        cells = {b: f"{c[0]:.2f} / {c[1]:.2f}" if c else "–" for b, c in found.items()}
        rows.append(
            {
                "methods=": f"`{name}`",
                "method": cards[name].title,
                "uses": traits(config, backbones["vit_b_32"]),
                **cells,
            }
        )
    table_4 = []
    for (label, tunable, total), row in zip(TABLE_4, load("ablations", "table4")[0]["rows"], strict=True):
        method, *settings = row.split()
        (cell,) = resolve([f"methods={method}", *settings, "controls=false"]).cells
        config = {**cell["method"], "ffn_width": configs[method]["ffn_width"]}  # the built-in data narrows it
        ours = counts(config, backbones["vit_b_32"])
        table_4.append(
            {"row": label, "paper, tunable M": f"{tunable:.2f}", "ours": f"{ours[0]:.2f}",
             "paper, all M": f"{total:.2f}", "ours, all": f"{ours[1]:.2f}"}
        )  # fmt: skip
    parts = [
        INTRO,
        "## Parameters\n\nTrainable / all, in millions, the text encoder included; "
        f"with {CLASSES} training classes where a head has a row a class. "
        "– cannot be used there (no text encoder, or adapters without a ViT).\n",
        pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
        "\n## MA-CLIP, table 4 of its paper (ViT-B/32)\n",
        pd.DataFrame(table_4).to_markdown(index=False, disable_numparse=True),
        f"\n{EXPLAINED}\n",
        "## Cards\n",
    ]
    for name, one in cards.items():
        where = f" [`{one.source.name}`]({one.source.name})" if one.source else ""
        lines = [f"### `{name}`: {one.title}\n", f"{one.description} Source: {one.paper}. Class `{one.kind}`{where}.\n"]
        lines += [f"- **{key}**: {one.fields[key]}" for key in FIELDS if key in one.fields]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> int:
    logging.disable(logging.WARNING)  # open_clip says that random weights are random
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text() != text
        if stale:
            print("error: methods/README.md is stale; run python -m tools.methods_table", file=sys.stderr)
        return int(stale)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
