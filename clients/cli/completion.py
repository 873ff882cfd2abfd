"""What the shell offers after TAB: names of stages and of their parameters."""

from __future__ import annotations

from collections.abc import Iterator

import typer


def stages(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield stages that begin with what was typed, each with its title."""
    from ...core.stages import registry

    for name, stage in sorted(registry.stages.items()):
        if name.startswith(incomplete):
            yield name, stage.title


def assignments(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield `name=` for the parameters of the stage named before, each with its doc."""
    from ...core.stages import registry

    # A half-typed line leaves the words before the option unassigned.
    words = [context.params.get("stage"), *context.args]
    stage = next((registry.stages[word] for word in words if word in registry.stages), None)
    if stage is None:
        return
    for name, field in stage.Parameters.model_fields.items():
        if name.startswith(incomplete):
            yield f"{name}=", field.description or ""
