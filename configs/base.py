"""The base of every settings model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Frozen, strict about keys and types; every field carries a description (`phalanx show-config --docs`).

    Numbers may be written as people write them: PyYAML reads `1e-5` and `2e6` as strings, so a numeric string is
    accepted for a number and a whole float for an integer; nothing else is converted (`true` is not 1).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_people_write_them(cls, data: Any) -> Any:
        from phalanx.configs.coerce import coerce_numbers

        return coerce_numbers(cls, data)
