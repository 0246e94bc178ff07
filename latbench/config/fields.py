"""Types with ranges that configuration classes share, and the mark of a younger key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
ProblemCount = Annotated[int, Field(ge=1, le=1_000_000)]  # of a split that is generated
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]

TINY = "tiny"  # id of the embedded backbone, and name of the presets for it
