"""Numbers that are counted with: none is so large that what counts with it has no room for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.settings.config import Config, ConfigError, load_config

_COUNTED = 2**63


def _bounded(section: type[StrictModel], place: str = "") -> list[tuple[str, FieldInfo]]:
    """Every setting with a lower bound."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, StrictModel):
            found += _bounded(field.annotation, f"{place}{name}.")
        elif field.annotation is int and any(isinstance(each, Ge) for each in field.metadata):
            found.append((f"{place}{name}", field))
    return found


@pytest.mark.parametrize(("place", "field"), _bounded(Config))
def test_a_number_too_large_is_refused_with_its_place_and_its_bound(
    place: str, field: FieldInfo, tmp_path: Path
) -> None:
    (bound,) = (int(str(each.le)) for each in field.metadata if isinstance(each, Le))
    assert bound < _COUNTED
    section, _, name = place.rpartition(".")
    file = tmp_path / "config.yaml"
    for value in (bound + 1, 2**64, 2**65 + 7):
        file.write_text(f"{section}:\n  {name}: {value}\n")
        with pytest.raises(ConfigError) as refused:
            load_config(file)
        assert f":2: {place}: " in str(refused.value)
        assert str(bound) in str(refused.value)
    file.write_text(f"{section}:\n  {name}: {bound}\n")
    load_config(file)
