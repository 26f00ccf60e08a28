"""The base of everything that can be set: strict, frozen, documented under each field, and helpful about typos."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from expunge.errors import ConfigError, did_you_mean


class Settings(BaseModel):
    """A frozen, strict set of named values. The docstring under a field is its help text everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from a mapping. Raises ConfigError naming `where`, the setting and the nearest one that exists."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(cls._explain(error, where)) from None

    @classmethod
    def _explain(cls, error: ValidationError, where: str) -> str:
        lines = []
        takes = ", ".join(
            f"{name} ({field.default})" if not field.is_required() else name
            for name, field in cls.model_fields.items()
        )
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                lines.append(f"{where}: unknown setting '{name}'.{did_you_mean(name, cls.model_fields)}")
            elif problem["type"] == "missing":
                lines.append(f"{where}: '{name}' is missing.")
            else:
                lines.append(
                    f"{where}: '{name}' is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}."
                )
        return "\n".join([*lines, f"It takes: {takes or 'nothing'}."])


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError with the line that does not parse."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, found {type(values).__name__}.")
    return values


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`["train.epochs=3"]` over nested mappings; the right side is read as YAML. Returns a new mapping."""
    import copy

    import yaml

    values = copy.deepcopy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {override}: expected name=value, for example --set train.epochs=3.")
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override}: '{parent}' is a single value, it has no '{last}'.")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(
                f"--set {override}: the value cannot be read. A list is written [a,b], a text with special characters in quotes."
            ) from None
    return values
