"""Plug-ins: the example package through every command, and what is never imported."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from fresh_process import outputs_in_a_fresh_process
from made_runs import tiny_checkpoint, tiny_recipe
from plugin_package import EXAMPLE, install, on_path, write_metadata

from compressm_cli import exchange, plugins
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main, train
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.data import DataSpec, Split
from compressm_cli.engine import experiment
from compressm_cli.engine.resuming import newest_checkpoint
from compressm_cli.engine.view import SilentView
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.models import build_model
from compressm_cli.objectives import objective_of
from compressm_cli.recipe import load_recipe, recipe_from_mapping, recipe_schema, recipe_to_mapping
from compressm_cli.runs.folder import Run

RECIPE = """\
name: toy
device: cpu
data: {task: tones, rows: 48}
model: {kind: pooled, neurons: 24}
objective: {kind: smoothed}
train: {steps: 30, batch_size: 16, learning_rate: 1e-2, threads: 1, log_every: 1, eval_every: 10, checkpoint_every: 7}
compression:
  method: largest
  schedule: {kind: listed, at_steps: [10, 20]}
  safety: {trial_steps: 5, tolerance: 0.9}
"""
KILL = """
import os, signal
from compressm_cli import plugins
plugins.load("compressm_example")  # before the schema of recipes is first made
from compressm_cli.recipe import load_recipe
assert load_recipe("quickstart/baseline", ["model.layer={kind: damped}"]).model.layer.damping == 0.5
from compressm_cli.cli import main
from compressm_cli.engine import loop
step, made = loop.training_step, []
def counted(*arguments):
    made.append(1)
    if len(made) == 23:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
loop.training_step = counted
main.run(["train", "toy.yaml", "--quiet", "output.root=killed"])
"""
SLEEPER = """
import pathlib
pathlib.Path("woken").touch()
from compressm_cli.layers.lru import LRU as Toy
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example package is installed."""
    return install(EXAMPLE, tmp_path_factory.mktemp("site"))


@pytest.fixture
def installed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example package can be imported; in the current folder lies a recipe that names all of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    with on_path(site, "compressm_example"):
        yield tmp_path


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file behind where it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
    with on_path(tmp_path / "site", "sleeper"):
        yield tmp_path


def weights(run: Run) -> dict[str, torch.Tensor]:
    return Checkpoint.load(run.final_checkpoint).weights


def test_all_of_a_package_in_one_recipe_through_train_kill_resume_analyze_compare_and_export(
    installed: Path, site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "draw_plots", lambda run: None)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path[1:]])}
    killed = subprocess.run([sys.executable, "-c", KILL], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert main.run(["train", "toy.yaml", "--quiet"]) == 0
    assert main.run(["train", "--resume", "killed/toy", "--quiet"]) == 0
    whole, resumed = Run.newest(Path("outputs/toy")), Run.newest(Path("killed/toy"))
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    (made_with,) = whole.read_info()["plugins"]
    assert made_with.pop("sources").keys() >= {"compressm_example", "compressm_example.model"}
    assert made_with == {
        "module": "compressm_example",
        "distribution": "compressm-example",
        "version": "0.1.0",
    }
    assert Checkpoint.load(whole.final_checkpoint).sizes == {":neurons": 6}
    capsys.readouterr()

    assert main.run(["analyze", "outputs/toy", "--json", "--no-plots"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["axes"] == [{"axis": ":neurons", "size": 6, "start_size": 24}]
    assert main.run(["analyze", "outputs/toy", "--no-plots"]) == 0
    assert ":neurons" in capsys.readouterr().out
    assert main.run(["compare", "outputs/toy", "killed/toy", "--no-speed"]) == 0
    told = capsys.readouterr().out
    assert "100.0 %" in told
    assert re.search(r"neurons, all +24 -> 6 +24 -> 6", told)
    assert "states" not in told
    assert resumed.read_summary()["axes"] == {"start": {"neurons": 24}, "final": {"neurons": 6}}
    assert main.run(["export", "outputs/toy", "--to", "safetensors", "--output", "own"]) == 0
    assert torch.equal(exchange.load(Path("own")).weights["up.weight"], one["up.weight"])
    assert main.run(["export", "outputs/toy", "--to", "hf", "--output", "theirs"]) == 2
    assert "its kind is pooled, not sequence; use --to safetensors" in capsys.readouterr().err
    assert main.run(["compress", "outputs/toy", "--keep", "0.5", "--output", "small.pt"]) == 2
    assert "no state space layers" in capsys.readouterr().err
    assert main.run(["train", "toy.yaml", "--dry-run"]) == 0
    for more in ([], ["--dry-run"]):
        assert main.run(["train", "toy.yaml", "compression={method: hankel, keep_fraction: 0.5}", *more]) == 2
        assert "kind pooled has no state space layers, and hankel cuts nothing" in capsys.readouterr().err


PATHS = {
    "data": ("task", "compressm_example.task:Tones"),
    "model": ("kind", "compressm_example.model:Pooled"),
    "objective": ("kind", "compressm_example.objective:Smoothed"),
    "compression": ("method", "compressm_example.method:Largest"),
}


def test_classes_by_their_import_paths(installed: Path) -> None:
    mapping = recipe_to_mapping(load_recipe("toy.yaml"))
    for section, (tag, path) in PATHS.items():
        mapping[section][tag] = path
    recipe = recipe_from_mapping(mapping, "test")
    assert recipe_to_mapping(recipe) == mapping
    assert recipe_from_mapping(recipe_to_mapping(recipe), "test") == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert type(build_model(recipe.model, recipe.data.spec())).__name__ == "Pooled"
    assert type(objective_of(recipe, recipe.data.spec())).__name__ == "Smoothed"
    assert [str(origin) for origin in plugins.needed(recipe)] == [
        "compressm_example (compressm-example 0.1.0)"
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("compressm_example.model:Pooled", "is no layer: no class of StateSpaceLayer"),
        ("compressm_example.layer:Nothing", "is no layer: no class of StateSpaceLayer"),
        ("compressm_example.nothing:Toy", "cannot be imported"),
        ("compressm_example._private:Toy", "is not one of"),
        ("compressm_example.layer:Damped.Config", "is not one of"),
    ],
)
def test_import_paths_that_name_nothing_of_the_kind(installed: Path, path: str, message: str) -> None:
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": path}
    with pytest.raises(BadInputError, match=f"test: model.layer.kind: .*{message}"):
        recipe_from_mapping(mapping, "test")


def test_a_layer_by_its_import_path(installed: Path) -> None:
    path = "compressm_example.layer:Damped"
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": path, "state_dim": 3, "damping": 0.25}
    recipe = recipe_from_mapping(mapping, "test")
    assert recipe.model.layer.kind == path
    model = tiny_checkpoint(recipe).build_model()
    assert {type(module).__name__ for module in model.modules()} >= {"Damped"}


def test_the_settings_of_plug_ins_are_as_strict_and_located_as_others(installed: Path) -> None:
    text = RECIPE.replace("neurons: 24", "neurons: 0, nurons: 2").replace("rows: 48", "rows: many")
    (installed / "toy.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        load_recipe("toy.yaml")
    assert str(caught.value).splitlines() == [
        "toy.yaml:3:27: data.rows: found the text 'many'; write an integer of at least 1 and at most 1000000",
        "toy.yaml:4:32: model.neurons: 0 is out of range; write an integer of at least 1 and at most 65536",
        "toy.yaml:4:35: model.nurons: unknown key; did you mean 'neurons'?",
    ]


def test_the_schema_for_editors_has_installed_plug_ins(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["recipes", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]["model"]["discriminator"]["mapping"]) == {
        "sequence",
        "decoder",
        "encoder",
        "encoder_decoder",
        "external",
        "resnet",
        "vit",
        "pooled",
    }
    assert "neurons" in schema["$defs"]["PooledConfig"]["properties"]


def test_built_in_names_and_help_import_no_plug_in(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["recipes", "validate", "quickstart/baseline"]) == 0
    assert main.run(["train", "--help"]) == 0
    assert "--plugin" in capsys.readouterr().out
    assert "compressm_example" not in sys.modules
    assert "pooled" not in json.dumps(recipe_schema())


def test_the_conformance_tests_take_the_classes_of_a_plug_in(
    site: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that is asked for it: the option is there, and the module of the tests is read after it."""
    (conftest,) = [
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(EXAMPLE.parent / "conftest.py")
    ]
    monkeypatch.setattr(pytestconfig.option, "plugin", ["compressm_example"])
    assert pytestconfig.getoption("--plugin") == ["compressm_example"]
    with on_path(site, "compressm_example"):
        conftest.pytest_configure(pytestconfig)
        tests = run_path(str(EXAMPLE.parent / "conformance" / "test_conformance.py"))
    (names, pairs) = tests["pytestmark"].args
    assert names == ("layer", "method")
    assert {("damped", "hankel"), ("damped", "largest")} <= set(pairs)


def test_a_fresh_process_of_the_conformance_tests_has_a_plug_in_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module can be imported, and nothing says that it is a plug-in."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLE), *sys.path[1:]]))
    with on_path(EXAMPLE, "compressm_example"):
        plugins.load("compressm_example")
        recipe = tiny_recipe("damped", 0, layer={"kind": "damped", "state_dim": 4})
        checkpoint = tiny_checkpoint(recipe)
        checkpoint.save(tmp_path / "damped.pt")
        inputs = torch.randn(2, 16, 1)
        with torch.no_grad():
            here = checkpoint.build_model().eval()(inputs)
        (there,) = outputs_in_a_fresh_process(tmp_path, inputs, [tmp_path / "damped.pt"])
        assert torch.equal(here, there)


def test_the_examples_of_the_page_are_those_of_the_package(installed: Path) -> None:
    text = (EXAMPLE.parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = [*EXAMPLE.glob("*.toml"), *EXAMPLE.glob("*/*.py")]
    sources = [re.sub("EXAMPLES = .*\n.*\n\n", "", file.read_text(encoding="utf-8")) for file in files]
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    assert all(any(block in source for source in sources) for block in blocks)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (installed / "page.yaml").write_text(recipe, encoding="utf-8")
    assert load_recipe("page.yaml").model.neurons == 24


@pytest.mark.filterwarnings("error")
def test_the_objective_of_the_page_is_learned_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "objectives.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "springs.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with on_path(tmp_path, "springs"):
        plugins.load("springs")
        springs = sys.modules["springs"]
        objective = springs.Huber(spec=springs.Springs().spec())
        labels = torch.tensor([[0.0, 1.0], [float("nan"), 2.0]])
        batch, outputs = Split(torch.zeros(2, 40, 1), labels), torch.tensor([[0.05, 1.0], [7.0, 2.4]])
        scores = objective.scores(batch)
        scores.update(outputs, batch)
        assert scores.metrics() == {"near": pytest.approx(2 / 3), "miss": pytest.approx(0.15)}
        wanted = (0.05**2 / 2 + 0.1 * (0.4 - 0.05)) / 3
        assert float(objective.loss(outputs, batch)) == pytest.approx(wanted) == scores.mean_loss()
        with pytest.raises(BadInputError, match="huber takes real numbers"):
            springs.Huber(spec=DataSpec(classes=3, length=4, features=1))
        layer = {"kind": "lru", "state_dim": 4}
        mapping = {
            "name": "springs",
            "device": "cpu",
            "data": {"task": "springs", "rows": 32},
            "model": {"layer": layer, "model_dim": 4, "depth": 1},
            "train": {"steps": 2, "batch_size": 16, "threads": 1},
        }
        recipe = recipe_from_mapping(mapping, "test")
        run = experiment.start(recipe, 0, experiment.load_data(recipe), SilentView(), "test")
        assert {"near", "miss"} <= run.read_summary()["test"].keys()


def test_a_recipe_goes_to_processes_that_have_not_loaded_its_plug_ins(installed: Path, site: Path) -> None:
    sent = pickle.dumps(load_recipe("toy.yaml"))
    known = load_recipe("toy.yaml")
    plugins.origins.LOADED.clear()
    assert pickle.loads(sent) == known


# ---- what is not imported -------------------------------------------------------------------------------------------

NAMES = [
    ("model", {"kind": "sleeper:Toy"}),
    ("model", {"layer": {"kind": "sleeper:Toy"}}),
    ("data", {"task": "sleeper:Toy"}),
    ("compression", {"method": "sleeper:Toy"}),
    ("objective", {"kind": "sleeper:Toy"}),
]
ASKED = (
    "sleeper:Toy' is of the package sleeper, which is not imported unless you ask for it; if you trust it: "
)


def hostile_mapping(section: str, value: dict[str, Any]) -> dict[str, Any]:
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    return {
        **mapping,
        section: {**(mapping[section] if section == "model" and "layer" in value else {}), **value},
    }


@pytest.mark.parametrize(("section", "value"), NAMES)
def test_what_a_recipe_names_is_not_imported(
    sleeper: Path, capsys: pytest.CaptureFixture[str], section: str, value: dict[str, Any]
) -> None:
    (sleeper / "hostile.yaml").write_text(json.dumps(hostile_mapping(section, value)), encoding="utf-8")
    for line in ("train hostile.yaml", "train hostile.yaml --dry-run", "bench hostile.yaml"):
        assert main.run(line.split()) == 2
        told = capsys.readouterr().err
        assert f"{ASKED}compressm {line} --plugin sleeper" in told
        assert told.count("\n") == 1
    assert main.run(["recipes", "validate", "hostile.yaml"]) == 2
    assert "hostile.yaml:1:" in capsys.readouterr().err
    assert not (sleeper / "woken").exists()
    assert "sleeper" not in sys.modules


def test_very_many_names_are_told_in_time(sleeper: Path) -> None:
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    names = {f"k{i}": {"kind": f"{'sleeper:' if i % 2 else ''}T{i}"} for i in range(10_000)}
    began = time.monotonic()
    with pytest.raises(BadInputError, match="and 9"):
        recipe_from_mapping({**mapping, "model": {**mapping["model"], **names}}, "test")
    assert time.monotonic() - began < 20
    assert "sleeper" not in sys.modules


def test_a_registry_says_what_there_is() -> None:
    with pytest.raises(KeyError) as caught:
        LAYERS["lruu"]
    assert str(caught.value) == "'lruu' is no layer; did you mean 'lru'?"
    with pytest.raises(KeyError, match="'zzz' is no method; there are none, hankel"):
        METHODS["zzz"]


@pytest.mark.parametrize("listed", [True, False])
def test_what_a_checkpoint_or_a_run_names_is_not_imported(
    sleeper: Path, capsys: pytest.CaptureFixture[str], listed: bool
) -> None:
    tiny_checkpoint(tiny_recipe("baseline", 0)).save(sleeper / "good.pt")
    content = torch.load(sleeper / "good.pt", weights_only=True)
    content["recipe"]["model"]["layer"]["kind"] = "sleeper:Toy"
    needed = [{"module": "sleeper", "distribution": "sleeper-tools", "version": "3.1"}] if listed else []
    torch.save({**content, "plugins": needed}, sleeper / "hostile.pt")
    run = Run.create(sleeper / "outputs", "hostile")
    run.write_recipe(json.dumps(content["recipe"]))
    run.write_info({"status": "interrupted", "plugins": needed})
    for line in (
        "analyze hostile.pt",
        "compress hostile.pt --keep 0.5 --output small.pt",
        "compare hostile.pt good.pt",
        "export hostile.pt --to safetensors --output own",
        f"train --resume {run.folder.relative_to(sleeper)}",
    ):
        assert main.run(line.split()) == 2
        told = capsys.readouterr().err
        assert told.rstrip().endswith(f"compressm {line} --plugin sleeper")
        assert "not imported unless you ask for it" in told
        assert ("sleeper (sleeper-tools 3.1)" in told) == listed
    assert not (sleeper / "woken").exists()
    assert "sleeper" not in sys.modules


def test_what_the_user_asks_for_is_imported_in_all_processes(
    sleeper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = hostile_mapping("model", {"layer": {"kind": "sleeper:Toy"}})
    (sleeper / "mine.yaml").write_text(json.dumps(mapping), encoding="utf-8")
    assert main.run(["recipes", "validate", "mine.yaml", "--plugin", "sleeper"]) == 0
    assert (sleeper / "woken").exists()
    assert command("train", "--resume", "run 1") == "compressm train --resume 'run 1' --plugin sleeper"
    tiny_checkpoint(load_recipe("mine.yaml")).save(sleeper / "mine.pt")
    assert torch.load(sleeper / "mine.pt", weights_only=True)["plugins"][0]["module"] == "sleeper"
    assert Checkpoint.load(sleeper / "mine.pt").recipe.model.layer.kind == "sleeper:Toy"
    sent = pickle.dumps(load_recipe("mine.yaml"))
    with on_path(sleeper / "site", "sleeper"):  # as in a process that has loaded nothing
        plugins.origins.LOADED.clear()
        LAYERS.restore({name: entry for name, entry in LAYERS.entries().items() if entry.origin is None})
        assert pickle.loads(sent).model.layer.kind == "sleeper:Toy"


def test_a_module_of_the_current_folder_can_be_asked_for(
    sleeper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sleeper / "beside_me.py").write_text("import at_once\n", encoding="utf-8")
    (sleeper / "at_once.py").write_text("", encoding="utf-8")
    (sleeper / "later.py").write_text("", encoding="utf-8")
    (sleeper / "whole").mkdir()
    for name in ("__init__", "part"):
        (sleeper / "whole" / f"{name}.py").write_text("", encoding="utf-8")
    with on_path(sleeper / "nowhere", "beside_me", "at_once", "whole"):
        path = list(sys.path)
        words = ["--plugin", "beside_me", "--plugin", "whole"]
        assert main.run(["recipes", "validate", "quickstart/baseline", *words]) == 0
        assert sys.path == path
        assert find_spec("later") is None
        assert import_module("whole.part")
    assert main.run(["recipes", "validate", "quickstart/baseline", "--plugin", "far_away"]) == 2
    assert "the plug-in far_away: no module far_away is installed" in capsys.readouterr().err
    assert main.run(["recipes", "validate", "quickstart/baseline", "--plugin", "../evil"]) == 2
    assert "write the name of a module" in capsys.readouterr().err


@pytest.fixture
def hostile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what looks like an installed plug-in, and a recipe that names its layer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('woken').touch()\n", encoding="utf-8")
    points = {"evil": "evil"}
    write_metadata(tmp_path, "evil", "1.0", {plugins.GROUP: points, "pydantic": points}, ["evil"])
    mapping = hostile_mapping("model", {"layer": {"kind": "evil"}})
    (tmp_path / "hostile.yaml").write_text(json.dumps(mapping), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("place", [".", "", "itself", "link"])
def test_nothing_in_the_current_folder_is_installed(
    hostile_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(hostile_folder)
    entry = {"itself": hostile_folder, "link": link}.get(place, place)
    with on_path(hostile_folder / "nowhere", "evil"):
        sys.path.insert(0, str(entry))
        assert main.run(["recipes", "validate", "hostile.yaml"]) == 2
        assert "model.layer.kind: 'evil' is not one of" in capsys.readouterr().err
        assert main.run(["recipes", "schema"]) == 0
    assert not (hostile_folder / "woken").exists()


def test_beside_a_module_that_was_asked_for_nothing_is_installed_in_no_folder_that_was_current(
    hostile_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile_folder / "mine.py").write_text("", encoding="utf-8")
    with on_path(hostile_folder / "nowhere", "evil", "mine"):
        assert main.run(["recipes", "validate", "hostile.yaml", "--plugin", "mine"]) == 2
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert main.run(["recipes", "validate", str(hostile_folder / "hostile.yaml")]) == 2
        assert str(hostile_folder) not in sys.path
    assert not list(hostile_folder.glob("**/woken"))
    assert not Path("woken").exists()


def test_an_environment_below_the_current_folder_is_installed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.parent)
    (tmp_path / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    with on_path(site, "compressm_example"):
        assert load_recipe(tmp_path / "toy.yaml").model.neurons == 24


def test_as_a_module_of_python_nothing_is_imported_from_the_current_folder(hostile_folder: Path) -> None:
    (hostile_folder / "yaml.py").write_text("import evil\n", encoding="utf-8")
    words = [sys.executable, "-m", "compressm_cli", "recipes", "validate", "hostile.yaml"]
    path = os.pathsep.join([str(EXAMPLE.parents[1]), *filter(None, sys.path)])
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "model.layer.kind: 'evil' is not one of" in done.stderr
    assert not (hostile_folder / "woken").exists()


def test_without_its_plug_in_a_model_says_which_one_it_needs(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with on_path(site, "compressm_example"):
        mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
        mapping["model"]["layer"] = {"kind": "damped", "state_dim": 3}
        checkpoint = tiny_checkpoint(recipe_from_mapping(mapping, "test"))
        checkpoint.save(tmp_path / "model.pt")
        exchange.export(checkpoint, "safetensors", tmp_path / "own")
    for file in ("model.pt", "own/model.safetensors"):
        assert main.run(["export", file, "--to", "safetensors", "--output", "again"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: {file}: made with the plug-in compressm_example (compressm-example 0.1.0), which is not imported "
            f"unless you ask for it; if you trust it: compressm export {file} --to safetensors --output again "
            "--plugin compressm_example"
        )
    assert (
        main.run(["export", "model.pt", "--to", "safetensors", "--output", "again", "--plugin", "absent"])
        == 2
    )


SLEEPER_ALONE = {"module": "sleeper", "distribution": None, "version": None}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("sleeper", "plugins must be a list"),
        ([{"module": "sleeper"}], "plugins[0] must be a mapping of distribution, module, sources, version"),
        ([{"module": "a; b", "distribution": None, "version": None}], "the name of a module"),
        ([{"module": "sleeper", "distribution": 3, "version": None}], "plugins[0].distribution"),
        ([{**SLEEPER_ALONE, "sources": ["sleeper"]}], "plugins[0].sources must be a mapping"),
        (
            [{**SLEEPER_ALONE, "sources": {"sleeper": "12\n"}}],
            "plugins[0].sources['sleeper'] must be a checksum",
        ),
        ([{**SLEEPER_ALONE, "sources": {"s\n": "0" * 32}}], "plugins[0].sources: a name must be the name"),
    ],
)
def test_a_damaged_list_of_plug_ins(tmp_path: Path, plugin: Any, message: str) -> None:
    tiny_checkpoint(tiny_recipe("baseline", 0)).save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({**content, "plugins": plugin}, tmp_path / "model.pt")
    with pytest.raises(BadInputError, match="damaged checkpoint") as caught:
        Checkpoint.load(tmp_path / "model.pt")
    assert message in str(caught.value)


# ---- plug-ins that are not as they must be --------------------------------------------------------------------------

START = """
from typing import Any, Callable, Literal
from pydantic import BaseModel, ConfigDict
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.methods.config import MethodConfig
from compressm_cli.methods.method import Method
from compressm_cli.plugins import register
"""
BAD = {
    "no name": (
        "class C(LRUConfig):\n    kind: str = 'toy'\nclass Toy(LRU):\n    Config = C\nregister(Toy)",
        'write kind: Literal["my_name"] = "my_name"',
    ),
    "another configuration": (
        "class C(BaseModel):\n    kind: Literal['toy'] = 'toy'\nclass Toy(LRU):\n    Config = C\nregister(Toy)",
        "its Config is no subclass of LayerConfig",
    ),
    "lenient": (
        "class C(LRUConfig):\n    model_config = ConfigDict(extra='allow')\n    kind: Literal['toy'] = 'toy'\n"
        "class Toy(LRU):\n    Config = C\nregister(Toy)",
        "leave model_config out",
    ),
    "no text": (
        "class C(LRUConfig):\n    kind: Literal['toy'] = 'toy'\n    f: Callable[[], int] = int\n"
        "class Toy(LRU):\n    Config = C\nregister(Toy)",
        "a recipe, which is text, cannot hold it",
    ),
    "abstract": (
        "class C(MethodConfig):\n    method: Literal['toy'] = 'toy'\nclass Toy(Method):\n    Config = C\nregister(Toy)",
        "it lacks plan",
    ),
    "no class of ours": ("register(dict)", "is no class of StateSpaceLayer, Method"),
    "a name that is taken": (
        "class Toy(LRU):\n    Config = LRUConfig\nregister(Toy)",
        "the layer 'lru' is compressm's (compressm_cli.layers.lru.LRU) and bad's (bad.Toy)",
    ),
    "an error": ("x = 1\nx.y", "bad.py:9: AttributeError: 'int' object has no attribute 'y'"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plug_in_that_is_not_as_it_must_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, message = BAD[name]
    (tmp_path / "bad.py").write_text(f"{START}{code}\n", encoding="utf-8")
    known = list(LAYERS)
    with on_path(tmp_path, "bad"):
        assert main.run(["recipes", "validate", "quickstart/baseline", "--plugin", "bad"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the plug-in bad cannot be imported: ")
    assert message in told
    assert told.count("\n") == 1
    assert list(LAYERS) == known


def test_a_broken_package_is_a_warning_and_an_error_where_it_is_needed(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    points = {plugins.GROUP: {"broken": "broken"}}
    write_metadata(tmp_path / "other", "broken-tools", "2.0", points, ["broken"])
    with on_path(tmp_path / "other", "broken", "compressm_example"):
        assert main.run(["recipes", "validate", "toy.yaml"]) == 0
        told = capsys.readouterr().err
        assert told.startswith("warning: the plug-in broken (broken-tools 2.0) cannot be imported: ")
        assert "ZeroDivisionError" in told
        assert main.run(["recipes", "validate", "toy.yaml"]) == 0
        assert capsys.readouterr().err == ""
        (installed / "toy.yaml").write_text(RECIPE.replace("pooled", "puddled"), encoding="utf-8")
        assert main.run(["recipes", "validate", "toy.yaml"]) == 2
        assert "toy.yaml:4:15: model.kind: the plug-in broken (broken-tools 2.0)" in capsys.readouterr().err


def test_a_name_of_two_packages_is_nobodys(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    code = START + "class C(LRUConfig):\n    kind: Literal['damped'] = 'damped'\n"
    (tmp_path / "other" / "twin.py").write_text(f"{code}class Twin(LRU):\n    Config = C\nregister(Twin)\n")
    write_metadata(tmp_path / "other", "twin", "2.0", {plugins.GROUP: {"twin": "twin"}}, ["twin"])
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": "damped", "state_dim": 3}
    with on_path(tmp_path / "other", "twin", "compressm_example"):
        for _ in range(2):
            with pytest.raises(BadInputError) as caught:
                recipe_from_mapping(mapping, "test")
            assert "the layer 'damped' is twin 2.0's (twin.Twin) and compressm_example " in str(caught.value)
            assert "(compressm_example.layer.Damped); one of them needs another name" in str(caught.value)
        mapping["model"]["layer"] = {"kind": "lru", "state_dim": 3}
        assert recipe_from_mapping(mapping, "test").model.layer.kind == "lru"


def test_another_version_is_a_warning(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": "damped", "state_dim": 3}
    tiny_checkpoint(recipe_from_mapping(mapping, "test")).save(installed / "model.pt")
    content = torch.load(installed / "model.pt", weights_only=True)
    content["plugins"][0]["version"] = "0.0.9"
    torch.save(content, installed / "model.pt")
    assert main.run(["export", "model.pt", "--to", "safetensors", "--output", "own"]) == 0
    assert (
        "warning: model.pt: made with the plug-in compressm_example (compressm-example 0.0.9); here it is 0.1.0"
        in capsys.readouterr().err
    )


MINE = """
from typing import Literal
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.plugins import register
class C(LRUConfig):
    kind: Literal["mine"] = "mine"
class Mine(LRU):
    Config = C
register(Mine)
"""


@pytest.mark.parametrize("kind", ["mine", "mine.more:More"])
def test_another_source_without_a_version_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    more = tmp_path / "mine" / "more.py"
    more.parent.mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(MINE, encoding="utf-8")
    more.write_text("from compressm_cli.layers.lru import LRU as More\n", encoding="utf-8")
    changed = tmp_path / "mine" / "__init__.py" if kind == "mine" else more
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": kind, "state_dim": 3}
    file = tmp_path / "model.pt"
    line = ["export", str(file), "--to", "safetensors", "--plugin", "mine", "--output"]
    with on_path(tmp_path, "mine"):
        plugins.load("mine")
        tiny_checkpoint(recipe_from_mapping(mapping, "test")).save(file)
        assert main.run([*line, str(tmp_path / "same")]) == 0
        assert "warning" not in capsys.readouterr().err
    changed.write_text(f"{changed.read_text(encoding='utf-8')}# other\n", encoding="utf-8")
    with on_path(tmp_path, "mine"):
        assert main.run([*line, str(tmp_path / "other")]) == 0
        Checkpoint.load(file)  # told once
        assert main.run([*line[:1], str(tmp_path / "same"), *line[2:], str(tmp_path / "again")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == [
        f"warning: {file}: the plug-in mine is another one than it was made with: its source has changed "
        f"({kind.partition(':')[0]})"
    ]
    content = torch.load(file, weights_only=True)
    for origin in content["plugins"]:
        del origin["sources"]
    torch.save(content, file)
    with on_path(tmp_path, "mine"):
        assert main.run([*line, str(tmp_path / "old")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_model_that_another_source_cannot_hold_is_not_told_as_damaged(tmp_path: Path) -> None:
    """Nor is anybody told to delete it."""
    source = tmp_path / "mine.py"
    source.write_text(MINE, encoding="utf-8")
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": "mine", "state_dim": 3}
    run = Run.create(tmp_path / "outputs", "mine")
    file = run.last_checkpoint(100)
    with on_path(tmp_path, "mine"):
        plugins.load("mine")
        tiny_checkpoint(recipe_from_mapping(mapping, "test")).save(file)
    wider = """class Mine(LRU):
    def __init__(self, *a):
        super().__init__(*a)
        self.more = type(self.D)(self.D * 1)
"""
    source.write_text(MINE.replace("class Mine(LRU):\n", wider), encoding="utf-8")
    message = (
        "cannot be used with the plug-in mine as it is here, which is another one .*more is missing; put that"
    )
    with on_path(tmp_path, "mine"):
        plugins.load("mine")
        with pytest.raises(BadInputError, match=message):
            Checkpoint.load(file)
        with pytest.raises(BadInputError, match=message) as caught:
            newest_checkpoint(run, SilentView())
        assert "delete" not in str(caught.value)


def test_texts_of_a_checkpoint_are_shown_on_a_line(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = recipe_to_mapping(tiny_recipe("baseline", 0))
    mapping["model"]["layer"] = {"kind": "damped", "state_dim": 3}
    tiny_checkpoint(recipe_from_mapping(mapping, "test")).save(installed / "model.pt")
    content = torch.load(installed / "model.pt", weights_only=True)
    content["plugins"][0]["version"] = "9\nerror: \x1b[31mall is lost"
    torch.save(content, installed / "model.pt")
    assert main.run(["export", "model.pt", "--to", "safetensors", "--output", "own"]) == 0
    told = (
        "warning: model.pt: made with the plug-in compressm_example (compressm-example 9\\nerror: "
        "\\x1b[31mall is lost); here it is 0.1.0"
    )
    assert told in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("how", ["import mine", "from compressm_cli import plugins; plugins.load('mine')"])
def test_a_plug_in_that_one_that_fails_imported_can_be_loaded(tmp_path: Path, how: str) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "bad.py").write_text(f"{how}\n1 / 0\n", encoding="utf-8")
    with on_path(tmp_path, "mine", "bad"):
        with pytest.raises(plugins.PluginError, match="ZeroDivisionError"):
            plugins.load("bad")
        assert "mine" not in LAYERS
        plugins.load("mine")
        assert LAYERS["mine"].__module__ == "mine"
        assert plugins.loaded() == ["mine"]
