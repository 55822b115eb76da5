"""What else differs between the arms of a comparison, beside what it is about."""

from typing import Any

from compressm_cli.core.text import one_line
from compressm_cli.engine.teaching import teacher_of
from compressm_cli.objectives import objective_config, primary_of
from compressm_cli.objectives.teacher import TeacherConfig
from compressm_cli.recipe import recipe_settings
from compressm_cli.recipe.yaml_text import dump_yaml
from compressm_cli.reports.arms import Arm, Member, common_seeds

TEACHER = "objective.teacher"
EXPECTED = ("name", "seeds", "output", "device", "compression", "data")
"""Parts of a recipe that may differ: names, places, and the compression that is compared. Data have their own rule."""


def warnings(arms: list[Arm]) -> list[str]:
    """Everything that makes the comparison less fair than it looks, one sentence each."""
    baseline, *others = arms
    found = [note for arm in arms for note in arm.notes]
    for arm in arms:
        found += _within(arm)
        if teacher_of(arm.members[0].recipe) is not None:
            found.append(
                f"{arm.label} learned from a teacher, and what that one's training cost is not counted here"
            )
    for other in others:
        found += _between(baseline, other)
    return list(dict.fromkeys(found))


def apart(baseline: Arm, other: Arm) -> str | None:
    """How the data of two arms differ, so that nothing measured on them can be compared; None where they do not."""
    if baseline.is_folder or other.is_folder:  # which tell nothing of theirs
        return None
    reference = baseline.members[0]
    members = [*baseline.members[1:], *other.members]
    return next((found for member in members if (found := other_data(reference, member))), None)


def other_data(ours: Member, theirs: Member) -> str | None:
    """How their data differ from ours; None where they are the same, as far as that is known.

    What the models know their data by decides where both do, else the settings: the same file may have another name,
    and another file the same.
    """
    settings = [key for key in _changed(ours, theirs, expected=()) if key.startswith("data.")]
    if ours.fingerprint is None or theirs.fingerprint is None:
        return "; ".join(settings) or None
    found = ours.fingerprint.differences(theirs.fingerprint)
    return "; ".join([*settings, *found]) if found else None


def _within(arm: Arm) -> list[str]:
    """Whether the runs of one arm are the same experiment."""
    first = arm.members[0]
    found = []
    for member in arm.members[1:]:
        keys = _changed(first, member, expected=("seeds", "output", "data"))
        if data := other_data(first, member):
            found.append(
                f"{arm.label}: seeds {first.seed} and {member.seed} have different data, so their "
                f"{primary_of(first.recipe).titles} make no mean: {data}"
            )
        if keys:
            found.append(
                f"{arm.label}: seeds {first.seed} and {member.seed} have other recipes: {'; '.join(keys)}"
            )
    return found


def _between(baseline: Arm, other: Arm) -> list[str]:
    if baseline.is_folder or other.is_folder:
        return []
    ours, theirs = baseline.members[0], other.members[0]
    names = f"{other.label} and {baseline.label}"
    found = []
    metric, own = primary_of(ours.recipe), primary_of(theirs.recipe)
    if data := apart(baseline, other):
        found.append(f"{names} have different data, so their {metric.titles} cannot be compared: {data}")
    if own != metric:
        found.append(
            f"{names} are judged by different metrics, {own.title} and {metric.title}; compared here is {metric.title}"
        )
    if rest := _changed(ours, theirs, EXPECTED):
        found.append(f"{names} differ in more than compression: {'; '.join(rest)}")
    if len(baseline.members) + len(other.members) > 2:
        found += _seeds(baseline, other)
    elif ours.seed != theirs.seed:
        found.append(f"{names} have different seeds: {theirs.seed} and {ours.seed}")
    for what, (here, there) in _origins(baseline, other).items():
        if here != there:
            found.append(f"{names} differ in {what}: {_listed(there)} against {_listed(here)}")
    return found


def _seeds(baseline: Arm, other: Arm) -> list[str]:
    common = common_seeds(baseline, other)
    if len(common) == len(baseline.members) == len(other.members):
        return []
    seeds = [", ".join(str(m.seed) for m in arm.members) for arm in (other, baseline)]
    paired = f"paired on {', '.join(map(str, common))} only" if len(common) > 1 else "compared unpaired"
    titles = primary_of(baseline.members[0].recipe).titles
    return [f"{other.label} has seeds {seeds[0]}, {baseline.label} has {seeds[1]}: {titles} are {paired}"]


def _origins(baseline: Arm, other: Arm) -> dict[str, tuple[set[str], set[str]]]:
    """Code, machine and library versions of both arms, as far as their runs recorded them."""
    if baseline.is_checkpoint or other.is_checkpoint:
        return {}
    parts = {"code": _code, "machine": _machine, "versions": _versions}
    return {
        what: ({read(m.info) for m in baseline.members}, {read(m.info) for m in other.members})
        for what, read in parts.items()
    }


def _code(info: dict[str, Any]) -> str:
    git = info.get("git")
    if not git:
        return "no commit recorded"
    return f"commit {str(git.get('commit'))[:10]}" + (" with uncommitted changes" if git.get("dirty") else "")


def _machine(info: dict[str, Any]) -> str:
    parts = {**(info.get("device") or {}), **(info.get("machine") or {})}
    return ", ".join(f"{key} {value}" for key, value in parts.items()) or "not recorded"


def _versions(info: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in (info.get("versions") or {}).items())


def _listed(values: set[str]) -> str:
    return " and ".join(sorted(values))


def _changed(ours: Member, theirs: Member, expected: tuple[str, ...]) -> list[str]:
    """``key: theirs against ours`` for every setting that differs, but for the expected ones."""
    one, two = (_settings(m) for m in (ours, theirs))
    keys = [key for key in {**one, **two} if key.partition(".")[0] not in (*expected, "budget")]
    missing = object()
    found = [
        f"{key}: {_shown(two, key)} against {_shown(one, key)}"
        for key in keys
        if one.get(key, missing) != two.get(key, missing)
    ]
    before, after = ours.recipe.budget, theirs.recipe.budget
    if before != after:
        found.append(
            f"budget: {'none' if after is None else after} against {'none' if before is None else before}"
        )
    return found


def _settings(member: Member) -> dict[str, Any]:
    """Every setting of its recipe; an objective that is not named is the task's own, and a teacher one setting."""
    recipe, teacher = member.recipe, teacher_of(member.recipe)
    found = recipe_settings(recipe.model_copy(update={"objective": objective_config(recipe)}))
    kept = {key: value for key, value in found.items() if not key.startswith(TEACHER)}
    return kept if teacher is None else {**kept, TEACHER: f"{teacher.model} ({_strength(teacher)})"}


def _strength(teacher: TeacherConfig) -> str:
    return f"temperature {teacher.temperature:g}, weight {teacher.weight:g}"


def _shown(settings: dict[str, Any], key: str) -> str:
    """As the recipe would say it."""
    if key not in settings:
        return "absent"
    value = settings[key]
    if key == TEACHER:
        return one_line(value)
    # In one line also what YAML breaks into several.
    text = " ".join(dump_yaml(value if isinstance(value, list) else [value]).split())
    return text if isinstance(value, list) else text[1:-1]
