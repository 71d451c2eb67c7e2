"""From the settings of a workspace to those of one tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloned_proxy.runner.values.spec import MIB, SandboxLimits, parse_memory

if TYPE_CHECKING:
    from cloned_proxy.store.settings.config import SandboxSettings


def names_for(settings: SandboxSettings, tool: str) -> str:
    """`name_addresses` of one tool."""
    return settings.name_addresses_of.get(tool, settings.name_addresses)


def limits_from(
    settings: SandboxSettings, *, cpus: float | None = None, memory: int | str | None = None
) -> SandboxLimits:
    """What is None comes from the settings; `memory` is bytes or a size such as `2g`. Raises SandboxInputError."""
    size = parse_memory(memory) if isinstance(memory, str) else memory
    return SandboxLimits(
        cpus=cpus or settings.cpus,
        memory=size or settings.memory_mib * MIB,
        pids=settings.pids,
        open_files=settings.open_files,
        tmp=settings.tmp_mib * MIB,
        home=settings.home_mib * MIB,
        kept_home=settings.kept_home_mib * MIB,
        scratch=settings.scratch_mib * MIB,
    )
