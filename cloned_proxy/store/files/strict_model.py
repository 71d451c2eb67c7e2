"""What is read from a file or a message that somebody else wrote, word for word as it is described."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Takes no unknown key and no value of another type, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
