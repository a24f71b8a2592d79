"""The class table of SynthAct: names, programs, reversed pairs and the one global split."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tools.synthact import changes, moves
from tools.synthact.motions import MOTIONS
from tools.synthact.scenes import Place


@dataclass(frozen=True)
class ActionClass:
    """One class.

    Attributes:
        name: folder name, made of the template.
        template: text shown to people and text encoders; `[something]` stands for the object.
        group: "order" (motions of things that could be any), "change" (what happens to things of its own, and its reverse),
            "person" (what people do) or "scene" (where people are).
        split: "train", "val" or "test".
        source: what draws it: a program, a motion or a `Place`.
        backwards: whether the program or motion is played backwards.
        reverse_of: name of the class whose clips are these backwards, or None.
    """

    name: str
    template: str
    group: str
    split: str
    source: object
    backwards: bool = False
    reverse_of: str | None = None

    @property
    def text(self) -> str:
        """Class name for text encoders: the template without brackets."""
        return self.template.replace("[", "").replace("]", "")


def _name(template: str) -> str:
    return "_".join(
        "".join(c if c.isalnum() else " " for c in template.lower().replace("[", "").replace("]", "")).split()
    )


# (program, template, template of the reverse, split)
_CHANGES = [
    (moves.lid, "Opening [something]", "Closing [something]", "train"),
    (moves.pour, "Filling a glass with [something]", "Draining a glass of [something]", "train"),
    (moves.fold, "Folding [something]", "Unfolding [something]", "train"),
    (moves.scatter, "Spreading [something] out", "Gathering [something] together", "train"),
    (moves.hide, "Putting [something] behind [something]", "Taking [something] from behind [something]", "train"),
    (moves.tip, "Tipping [something] over", "Setting [something] upright", "train"),
    (changes.light, "Turning the light on over [something]", "Turning the light off over [something]", "train"),
    (changes.tower, "Building a tower of [something]", "Taking down a tower of [something]", "train"),
    (changes.flag, "Raising [something] on a mast", "Lowering [something] on a mast", "train"),
    (changes.umbrella, "Putting up [something]", "Taking down [something]", "train"),
    (changes.carpet, "Rolling out [something]", "Rolling up [something]", "train"),
    (changes.pan, "Turning the camera right while filming [something]", "Turning the camera left while filming [something]", "train"),
    (changes.zoom, "Approaching [something] with the camera", "Moving away from [something] with the camera", "train"),
    (changes.curtain, "Opening [something] of a window", "Closing [something] of a window", "val"),
    (moves.tear, "Pulling two pieces of [something] apart", "Joining two pieces of [something]", "val"),
    (changes.inflate, "Inflating [something]", "Deflating [something]", "val"),
    (moves.into, "Putting [something] into [something]", "Taking [something] out of [something]", "test"),
    (moves.cover, "Covering [something] with [something]", "Uncovering [something] under [something]", "test"),
    (moves.slope, "Letting [something] roll down a slope", "Making [something] roll up a slope", "test"),
    (changes.paint, "Painting [something]", "Wiping the paint off [something]", "test"),
    (changes.stretch, "Stretching [something]", "Letting [something] shrink", "test"),
    (changes.grow, "Watching [something] grow", "Watching [something] wither", "test"),
    (changes.sunrise, "The sun rising over [something]", "The sun setting over [something]", "test"),
    (changes.tilt, "Turning the camera upwards while filming [something]", "Turning the camera downwards while filming [something]", "test"),
]  # fmt: skip

# (motion, template, template of the reverse or None, split)
_PERSONS = [
    ("walk", "Walking forwards", "Walking backwards", "train"),
    ("roll", "Rolling forwards on the floor", "Rolling backwards on the floor", "train"),
    ("getup_facedown", "Getting up from lying on the belly", "Lying down on the belly", "train"),
    ("run", "Running forwards", "Running backwards", "val"),
    ("crawl", "Crawling forwards", "Crawling backwards", "test"),
    ("getup_faceup", "Getting up from lying on the back", "Lying down on the back", "test"),
    ("cartwheel", "Doing a cartwheel", None, "train"),
    ("kick", "Kicking", None, "train"),
    ("dance_a", "Dancing", None, "train"),
    ("spin", "Spinning on the spot", None, "train"),
    ("jump", "Jumping", None, "val"),
    ("dance_b", "Dancing with large steps", None, "val"),
    ("backflip", "Doing a backflip", None, "test"),
    ("punch", "Throwing punches", None, "test"),
    ("spinkick", "Doing a spinning kick", None, "test"),
]

_DAY, _ANY = ("a blue sky", "a grey sky"), ("a blue sky", "a grey sky", "an evening sky")
_PLACES = [
    ("Swimming in a pool", "train", Place(("a white wall", "a blue wall"), "water", 0.3, ("lanes", "waves"), ("crawl",))),
    ("Skiing down a mountain", "train", Place(_ANY, "snow", 0.45, ("mountains", "sun"), ("walk", "jump"))),
    ("Playing football on grass", "train", Place(_ANY, "grass", 0.35, ("lanes", "fence"), ("run", "kick"))),
    ("Boxing in a ring", "train", Place(("a dark wall",), "a grey floor", 0.55, ("ropes", "lamps"), ("punch", "kick"))),
    ("Cooking in a kitchen", "train", Place(("a white wall",), "a grey floor", 0.62, ("cupboards", "tiles"), ("punch", "walk"))),
    ("Hiking in a forest", "train", Place(_ANY, "earth", 0.55, ("trees", "stones"), ("walk",))),
    ("Jogging in the city", "train", Place(_ANY, "asphalt", 0.6, ("buildings", "lanes"), ("run",))),
    ("Camping under the stars", "train", Place(("a night sky",), "grass", 0.6, ("stars", "tents"), ("walk", "spin"))),
    ("Playing beach volleyball", "train", Place(_DAY, "sand", 0.42, ("net", "sun"), ("jump", "run"))),
    ("Performing on a stage", "train", Place(("a dark wall",), "a wooden floor", 0.68, ("drapes",), ("dance_b", "spinkick"))),
    ("Working in an office", "train", Place(("a white wall", "a blue wall"), "a grey floor", 0.62, ("screens",), ("walk",))),
    ("Walking through a ruin", "train", Place(_ANY, "sand", 0.6, ("columns", "stones"), ("walk",))),
    ("Surfing on the sea", "val", Place(_ANY, "water", 0.4, ("waves", "sun"), ("jump", "spin"))),
    ("Dancing in a disco", "val", Place(("a dark wall",), "a grey floor", 0.6, ("lamps", "tiles"), ("dance_a", "dance_b"))),
    ("Reading in a library", "val", Place(("a brown wall",), "a wooden floor", 0.72, ("shelves",), ("walk",))),
    ("Exercising in a gym", "val", Place(("a brown wall", "a white wall"), "a grey floor", 0.6, ("weights",), ("jump",))),
    ("Picking flowers in a meadow", "val", Place(_DAY, "grass", 0.45, ("flowers", "mountains"), ("punch", "walk"))),
    ("Waiting on a street in the rain", "val", Place(("a grey sky",), "asphalt", 0.55, ("bricks", "rain"), ("walk",))),
    ("Playing tennis on a red court", "test", Place(_ANY, "a red floor", 0.4, ("net", "lanes"), ("run", "punch"))),
    ("Playing badminton in a hall", "test", Place(("a white wall", "a brown wall"), "a wooden floor", 0.42, ("net", "lanes"), ("run", "jump"))),
    ("Skating on an ice rink", "test", Place(("a dark wall", "a white wall"), "ice", 0.4, ("lanes", "fence"), ("spin", "walk"))),
    ("Trekking through a snowy forest", "test", Place(_ANY, "snow", 0.5, ("trees", "stones"), ("walk",))),
    ("Trekking through the desert", "test", Place(_ANY, "sand", 0.5, ("sun", "stones"), ("walk",))),
    ("Harvesting a wheat field", "test", Place(_ANY, "sand", 0.45, ("stalks", "fence"), ("punch", "walk"))),
    ("Working in a flower garden", "test", Place(_DAY, "earth", 0.5, ("flowers", "fence"), ("punch", "walk"))),
    ("Diving underwater", "test", Place(("a blue wall",), "water", 0.75, ("bubbles", "stones"), ("crawl", "roll"))),
    ("Bowling in an alley", "test", Place(("a dark wall", "a brown wall"), "a wooden floor", 0.42, ("pins", "lanes"), ("walk", "kick"))),
    ("Playing basketball in a yard", "test", Place(("a white wall", "a grey sky"), "asphalt", 0.5, ("hoop", "bricks"), ("jump", "run"))),
    ("Walking through a city at night", "test", Place(("a night sky",), "asphalt", 0.6, ("buildings", "stars"), ("walk", "run"))),
    ("Camping by a lake", "test", Place(_ANY, "water", 0.5, ("tents", "trees"), ("walk", "spin"))),
]  # fmt: skip


@functools.cache
def action_classes() -> tuple[ActionClass, ...]:
    """Every class of SynthAct, in the order of the table."""
    out = []
    for group, rows in (("order", MOTIONS), ("change", _CHANGES), ("person", _PERSONS)):
        for source, template, reverse, split in rows:
            name, other = _name(template), _name(reverse) if reverse else None
            out.append(ActionClass(name, template, group, split, source, reverse_of=other))
            if reverse:
                out.append(ActionClass(_name(reverse), reverse, group, split, source, backwards=True, reverse_of=name))
    scenes = [ActionClass(_name(template), template, "scene", split, place) for template, split, place in _PLACES]
    return (*out, *scenes)


def class_named(name: str) -> ActionClass:
    """The class of a name; programs are functions that cannot be pickled, so processes are told names.

    Raises:
        KeyError: if there is none.
    """
    return {action.name: action for action in action_classes()}[name]
