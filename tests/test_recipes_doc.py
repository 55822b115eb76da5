"""docs/recipes.md lists every setting as the schema has it.

``python tests/test_recipes_doc.py`` writes its tables, and the schema that completion reads, anew, after the schema
has changed.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressm_cli.core.config import Config
from compressm_cli.data import TASKS
from compressm_cli.data.augmentation import Augmentation
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.methods.config import SafetyConfig
from compressm_cli.methods.schedule import AdaptiveSchedule, EquidistantSchedule, ListedSchedule
from compressm_cli.models import MODELS
from compressm_cli.models.discovered import FoundAxes, FoundAxis
from compressm_cli.models.transformer import AttentionConfig
from compressm_cli.objectives import OBJECTIVES
from compressm_cli.objectives.teacher import TeacherConfig
from compressm_cli.recipe import load_recipe, recipe_schema
from compressm_cli.recipe.budget import BudgetConfig
from compressm_cli.recipe.keys import SCHEMA
from compressm_cli.recipe.schema import (
    OutputConfig,
    Recipe,
    RollBackConfig,
    StopConfig,
    TrainConfig,
)

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
MARK = "<!-- What follows is written by tests/test_recipes_doc.py. -->"


def sections() -> dict[str, type[Config]]:
    """Headings and what stands below them, in the order of a recipe."""
    schedules = {"equidistant": EquidistantSchedule, "listed": ListedSchedule, "adaptive": AdaptiveSchedule}
    return {
        "The whole": Recipe,
        **{f"`data: {{task: {name}}}`": task for name, task in TASKS.items()},
        "`data: {augment: ...}`": Augmentation,
        **{f"`model: {{kind: {name}}}`": model.Config for name, model in MODELS.items()},
        "`model: {layers: [{kind: attention}]}`": AttentionConfig,
        **{f"`model: {{layer: {{kind: {name}}}}}`": layer.Config for name, layer in LAYERS.items()},
        **{f"`objective: {{kind: {name}}}`": kind.Config for name, kind in OBJECTIVES.items()},
        "`objective: {teacher: ...}`": TeacherConfig,
        "`train:`": TrainConfig,
        "`train: {on_divergence: {action: stop}}`": StopConfig,
        "`train: {on_divergence: {action: roll_back}}`": RollBackConfig,
        **{f"`compression: {{method: {name}}}`": method.Config for name, method in METHODS.items()},
        **{f"`compression: {{schedule: {{kind: {kind}}}}}`": c for kind, c in schedules.items()},
        "`compression: {safety: ...}`": SafetyConfig,
        "`budget:`": BudgetConfig,
        "`output:`": OutputConfig,
    }


def number_range(rule: dict[str, Any]) -> str:
    """``1 to 256``, or ``> 0, <= 10``."""

    def shown(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

    if "minimum" in rule and "maximum" in rule:
        return f" {shown(rule['minimum'])} to {shown(rule['maximum'])}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {shown(rule[key])}" for key, sign in signs.items() if key in rule]
    return f" {', '.join(limits)}" if limits else ""


def allowed(rule: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "oneOf" in rule:
        key = rule["discriminator"]["propertyName"]
        return f"a mapping; its `{key}` is one of " + ", ".join(
            f"`{k}`" for k in rule["discriminator"]["mapping"]
        )
    if "anyOf" in rule:
        return " or ".join(allowed(option) for option in rule["anyOf"])
    if "$ref" in rule:
        return "a mapping"
    if "const" in rule:
        return f"`{rule['const']}`"
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    kinds = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "object": "a mapping",
        "null": "null",
    }
    if rule["type"] == "array":
        exactly = (
            f" of {rule['minItems']}"
            if "minItems" in rule and rule["minItems"] == rule.get("maxItems")
            else ""
        )
        return f"list{exactly} ({allowed(rule['items'])})"
    return kinds[rule["type"]] + (number_range(rule) if rule["type"] in ("integer", "number") else "")


def default(rule: dict[str, Any], required: bool) -> str:
    if required or "const" in rule:
        return "(required)" if required else ""
    value = rule["default"]
    value = without_nulls(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if inner is not None}
    return value


def prose(text: str) -> str:
    """A docstring as Markdown on one line."""
    return re.sub(r"``(.*?)``", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def table(config: type[Config]) -> list[str]:
    schema = recipe_schema() if config is Recipe else config.model_json_schema()
    rows = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for key, rule in schema["properties"].items():
        given = default(rule, key in schema.get("required", []))
        meaning = prose(rule.get("description", ""))
        rows.append(f"| `{key}` | {allowed(rule)} | {given} | {meaning} |")
    return rows


def generated() -> str:
    lines = [MARK]
    for heading, config in sections().items():
        about = prose((config.__doc__ or "").replace("\n\n", "\n"))
        about = re.sub(r"^`[^`]*`[:;] ", "", about)
        lines += ["", f"## {heading}", "", about[0].upper() + about[1:], "", *table(config)]
    return "\n".join(lines) + "\n"


def test_the_page_is_what_the_schema_says() -> None:
    written = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert written[1] + written[2] == generated(), "run python tests/test_recipes_doc.py"


def test_every_mapping_of_the_schema_has_its_section() -> None:
    described = {config.__name__ for config in sections().values()} - {"Recipe"}
    assert described == set(recipe_schema()["$defs"]) - {
        FoundAxes.__name__,
        FoundAxis.__name__,
    }  # a run's own


@pytest.mark.parametrize("config", sections().values(), ids=lambda c: c.__name__)
def test_every_setting_says_what_it_means(config: type[Config]) -> None:
    for key, rule in config.model_json_schema()["properties"].items():
        assert "const" in rule or rule.get("description"), f"{config.__name__}.{key} has no docstring"


def test_the_examples_of_the_page_are_recipes(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        path = tmp_path / "example.yaml"
        path.write_text(example, encoding="utf-8")
        load_recipe(path)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text(encoding="utf-8").partition(MARK)[0] + generated(), encoding="utf-8")
    SCHEMA.write_text(f"{json.dumps(recipe_schema(), indent=2)}\n", encoding="utf-8")
    print(PAGE, SCHEMA, sep="\n")
