"""Protocol: what is held identical for every method that is compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fsar_bench.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation.

    Attributes:
        split: split that is tested.
        way: classes of an episode (N).
        shot: labelled clips of each class (K).
        query: query clips of each class.
        episodes: number of episodes.
        seed: seed of the episode plan.
        frames: frames of a clip (T).
        sampling: rule that picks the frames; "midpoint" takes the middle of T equal segments.
        template: prompt template, `{}` stands for the class text.
        group_disjoint: supports share no source recording with the queries of their class.
    """

    split: str = "test"
    way: int = 5
    shot: int = 1
    query: int = 1
    episodes: int = 10_000
    seed: int = 0
    frames: int = 8
    sampling: str = "midpoint"
    template: str = "a photo of {}"
    group_disjoint: bool = False

    def __post_init__(self) -> None:
        for name in ("way", "shot", "query", "episodes", "frames"):
            value = getattr(self, name)
            if value < (2 if name == "way" else 1):
                raise ConfigError(f"{name}={value} is too small: at least {2 if name == 'way' else 1} is needed.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative.")
        if self.template.count("{}") != 1 or self.template.count("{") != 1 or self.template.count("}") != 1:
            raise ConfigError(
                f"template={self.template!r} needs one {{}}, the place of the class text, and no other brace."
            )
        if self.sampling != "midpoint":
            raise ConfigError(f"sampling={self.sampling!r} is unknown. Choose from: midpoint.")

    def as_dict(self) -> dict:
        """All rules; `group_disjoint` only where it holds, so that it changes no other protocol's hash."""
        rules = asdict(self)
        return rules if self.group_disjoint else {k: v for k, v in rules.items() if k != "group_disjoint"}
