"""Write methods/README.md: an overview, parameter counts and cards of all methods, from code. `--check` fails if out of date.

python -m tools.methods_table [--check]
"""

from __future__ import annotations

import ast
import copy
import logging
import sys
import textwrap
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from torch import nn

from fsar_bench.backbones import Backbone
from fsar_bench.config.cards import FIELDS, Card, card, unspecified
from fsar_bench.config.files import load, names
from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError
from fsar_bench.method import FewShotMethod
from fsar_bench.registry import BACKBONES, METHODS, build

ROOT = Path(__file__).parents[1]
PAGE, RECIPES = ROOT / "methods" / "README.md", ROOT / "configs" / "recipes"
COUNTED = ("vit_b_32", "vit_b_16", "rn50", "resnet50", "synthact_clip")
CLASSES = 64  # training classes, for heads that have one row per class
TABLE_4 = [  # of arXiv 2308.01532: label, tunable M, all M
    ("Frozen", 3.15, 154.43),
    ("Fine-tuned visual-only", 90.99, 154.43),
    ("Frozen + multimodal adaptation", 7.94, 159.21),
    ("+ temporal adaptation", 15.04, 166.31),
    ("+ joint adaptation", 18.54, 169.81),
]
INTRO = """# Methods

One file per method, importing only `fsar_bench`; a method that consists of a backbone and a matcher needs only a config (class
`MetricMethod`). This page is generated from the code and its docstrings by `python -m tools.methods_table`. `fsar-bench check
NAME` tests a method's contract, `fsar-bench list methods --verbose` prints its card. "Training" in a card, the suite's recipe,
is read from the configs: what holds for every dataset of real videos, and what the config of one changes; the built-in SynthAct
has settings of its own, without augmentation. "Official recipe" is what `recipe=official` takes (`configs/recipes/`). Evaluation
always takes frames at segment midpoints, the centre crop and the suite's episodes, whatever the recipe.
"""
LEGEND = """Certainty of the specification: *code run*, golden arrays of the official code agree; *code read*, written from
the official code alone; *declared*, settings of our own where nothing could be read. Uses: what a method uses besides the
frames of a query and of the supports. Trained M: trained parameters in millions on ViT-B/16. Recipe: *suite* is the common
training, *official* (`recipe=official`) the published one, for the datasets named. Systems without a public specification
are at the end."""
EXPLAINED = """The two rows without adapters and the whole model agree to the printed digits (90,999,040 is printed as
90.99). The steps between them do not: the paper's are 4.79, 7.10 and 3.50 M, ours 8.28, 3.55 and 3.55 M; both sum to
15.39 M. 7.10 M are two adapters in every block, so the paper may count the multimodal adapter with the temporal row, and only
the text layers (4.73 M) with the multimodal row. That would leave 0.06 M of its first step and -0.05 M of its last
unexplained; the two cancel, and we leave them open."""


def build_backbone(name: str) -> Backbone:
    """Build a backbone whose matrices have no values, which is enough for counting."""
    backbone = cast("Backbone", build(BACKBONES, {**load("backbones", name).values["backbone"], "pretrained": None}))
    for module in backbone.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 2:  # those that take long to fill a method with
                setattr(module, key, nn.Parameter(parameter.to("meta")))
    return backbone


def build_method(config: dict, backbone: Backbone) -> FewShotMethod:
    """Build the method of a config."""
    with torch.device("meta"):
        return cast("FewShotMethod", build(METHODS, copy.deepcopy(config), backbone=backbone))


def counts(config: dict, backbone: Backbone) -> tuple[float, float] | None:
    """Count the trainable and all parameters, in millions, of a method on a backbone; None if it cannot be used there."""
    method = _built(config, backbone)
    if method is None:
        return None
    if method.traits.uses_class_names and not backbone.has_text:
        return None
    method.prepare(torch.zeros(CLASSES, 0))
    parameters = method.parameter_counts()
    return parameters["trainable"] / 1e6, parameters["total"] / 1e6


def traits(config: dict, backbones: dict[str, Backbone]) -> str:
    """List what a method uses besides the frames of a query and of the supports, on the first backbone that it fits."""
    method = next(method for backbone in backbones.values() if (method := _built(config, backbone)))
    uses = {
        "class names": method.traits.uses_class_names,
        "no supports": method.traits.ignores_supports,
        "frame order": method.traits.order_sensitive,
        "other queries": method.traits.transductive,
        "whole sets": method.is_set_wise,
        "statistics of train": method.reads_train_bank,
    }
    return ", ".join(name for name, used in uses.items() if used) or "–"


def _built(config: dict, backbone: Backbone) -> FewShotMethod | None:
    """The method of a config on a backbone; None if it cannot be used there."""
    try:
        return build_method(config, backbone)
    except ConfigError:
        return None


def official_datasets(name: str) -> list[str]:
    """Datasets for which configs/recipes/NAME.py has the published training, read without running it; none without a file."""
    path = RECIPES / f"{name}.py"
    if not path.is_file():
        return []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "datasets":
            if isinstance(node.value, ast.Call):  # dict(hmdb51=...)
                return sorted(keyword.arg for keyword in node.value.keywords if keyword.arg)
            return sorted(ast.literal_eval(key) for key in getattr(node.value, "keys", []))
    return []


def recipe(name: str, is_trained: bool) -> str:
    """The trainings that a method has."""
    if not is_trained:
        return "not trained"
    official = official_datasets(name)
    return f"suite; official: {', '.join(official)}" if official else "suite"


def short(text: str) -> str:
    """The beginning of a field of a card: to the end of its first clause, 110 characters at most."""
    ends = [place for end in (": ", "; ", ". ") if (place := text.find(end)) > 0]
    clause = text[: min(ends)] if ends else text.removesuffix(".")
    return textwrap.shorten(clause, 110, placeholder=" …")


def overview(configs: dict[str, dict], cards: dict[str, Card], backbones: dict[str, Backbone]) -> str:
    """Write the table of all methods, and of the systems that have none here."""
    rows = []
    for name, config in configs.items():
        entry = cards[name]
        millions = counts(config, backbones["vit_b_16"])
        rows.append(
            {
                "methods=": f"`{name}`",
                "system": entry.title,
                "source": entry.paper,
                "certainty": entry.certainty or "–",
                "uses": traits(config, backbones),
                "trained M": f"{millions[0]:.2f}" if millions else "–",
                "follows": short(entry.fields.get("Followed", "–")),
                "recipe": recipe(name, "Training" in entry.fields),
            }
        )
    for system in unspecified():
        blank = dict.fromkeys(("uses", "trained M", "recipe"), "–")
        row = {"methods=": "–", "system": system.title, "source": system.paper, "certainty": "no public specification"}
        rows.append({**row, **blank, "follows": f"missing: {system.missing}"})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def table_of_parameters(configs: dict[str, dict], cards: dict[str, Card], backbones: dict[str, Backbone]) -> str:
    """Write the table of parameter counts, one row per method and one column per backbone."""
    rows = []
    for name, config in configs.items():
        millions = {b: counts(config, backbone) for b, backbone in backbones.items()}
        cells = {b: f"{c[0]:.2f} / {c[1]:.2f}" if c else "–" for b, c in millions.items()}
        rows.append({"methods=": f"`{name}`", "method": cards[name].title, **cells})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def table_4(configs: dict[str, dict], backbone: Backbone) -> str:
    """Write MA-CLIP's table 4 next to our counts."""
    rows = []
    for (label, tunable, total), row in zip(TABLE_4, load("ablations", "table4").values["rows"], strict=True):
        method, *settings = row.split()
        (cell,) = resolve([f"methods={method}", *settings, "controls=false"]).cells
        config = {**cell.identity.method, "ffn_width": configs[method]["ffn_width"]}  # the built-in dataset narrows it
        ours = counts(config, backbone)
        if ours is None:
            raise ConfigError(f"The row {row!r} of table 4 cannot be built on {backbone.name}.")
        rows.append(
            {"row": label, "paper, tunable M": f"{tunable:.2f}", "ours": f"{ours[0]:.2f}",
             "paper, all M": f"{total:.2f}", "ours, all": f"{ours[1]:.2f}"}
        )  # fmt: skip
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def text_of_card(name: str, card: Card) -> str:
    """Write the card of a method."""
    source = f" [`{card.source.name}`]({card.source.name})" if card.source else ""
    lines = [
        f"### `{name}`: {card.title}\n",
        f"{card.description} Source: {card.paper}. Class `{card.kind}`{source}.\n",
    ]
    lines += [f"- **Certainty**: {card.certainty}"] if card.certainty else []
    lines += [f"- **{key}**: {card.fields[key]}" for key in FIELDS if key in card.fields]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Write the whole page."""
    METHODS.import_from_location()
    backbones = {name: build_backbone(name) for name in COUNTED}
    configs = {name: load("methods", name).values["method"] for name in names("methods")}
    cards = {name: card(name) for name in configs}
    parts = [
        INTRO,
        f"{LEGEND}\n",
        overview(configs, cards, backbones),
        "",
        "## Parameters\n\nTrainable / all, in millions, the text encoder included; "
        f"with {CLASSES} training classes where a head has one row per class. "
        "– cannot be used there (no text encoder, or adapters without a ViT).\n",
        table_of_parameters(configs, cards, backbones),
        "\n## MA-CLIP, table 4 of its paper (ViT-B/32)\n",
        table_4(configs, backbones["vit_b_32"]),
        f"\n{EXPLAINED}\n",
        "## Cards\n",
        *(text_of_card(name, entry) for name, entry in cards.items()),
    ]
    return "\n".join(parts)


def main() -> int:
    """Write the page, or check it; returns the exit code."""
    logging.disable(logging.WARNING)  # open_clip warns that random weights are random
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text() != text
        if stale:
            print("error: methods/README.md is out of date; run python -m tools.methods_table", file=sys.stderr)
        return int(stale)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
