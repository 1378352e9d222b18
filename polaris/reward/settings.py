"""A configuration's reward section in; the weights, clip, word limits and gate that score a story out."""

from __future__ import annotations

from dataclasses import dataclass

from polaris.recipe import RewardConfig
from polaris.reward.composite import CLIP, TRAINING, Weights
from polaris.reward.quality import Disqualification
from polaris.reward.shape import DEFAULT_FLOORS, LengthFloors


@dataclass(frozen=True)
class Settings:
    """How components become one reward; the defaults are the recipe's in training.

    Attributes:
        weights: how much each component counts.
        clip: bounds of the reward.
        floors: word limits of the length and blank terms.
        gate: what disqualifies a story; None is nothing.

    """

    weights: Weights = TRAINING
    clip: tuple[float, float] = CLIP
    floors: LengthFloors = DEFAULT_FLOORS
    gate: Disqualification | None = None

    @classmethod
    def of(cls, config: RewardConfig, *, validation: bool = False) -> Settings:
        """Return what the configuration sets, the two penalties on token counts left out.

        `validation` takes the weights of the validation that goes with training.
        """
        weights = config.validation_weights if validation else config.weights
        return cls(
            weights=Weights(**weights.model_dump()),
            clip=(-config.clip, config.clip),
            floors=floors_of(config),
            gate=Disqualification(**config.disqualify.model_dump()) if config.disqualify else None,
        )


def floors_of(config: RewardConfig) -> LengthFloors:
    """Return the configuration's word limits."""
    return LengthFloors(
        min_words=config.min_words,
        min_target=config.min_target,
        lower_floor=config.lower_floor,
        lower_cap=config.lower_cap,
        upper_floor=config.upper_floor,
        upper_cap=config.upper_cap,
    )
