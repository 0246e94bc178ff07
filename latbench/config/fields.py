"""Types with ranges that configuration classes share, and the mark of a younger key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]

# Marks a field younger than committed results: `Field(default=..., json_schema_extra=YOUNGER)`. Every run before it
# had its default, so at its default it is no part of an identity, and run ids and settings stay what they were.
YOUNGER: dict[str, Any] = {"younger": True}

TINY = "tiny"  # id of the embedded backbone, and name of the presets for it
