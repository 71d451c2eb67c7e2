"""What every section of config.yaml has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Takes no unknown key and no value of another type, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
