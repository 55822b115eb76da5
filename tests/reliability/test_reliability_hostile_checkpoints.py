"""Damaged and malicious checkpoints: exit code 2, one message, nothing executed, allocated or overwritten."""

import copy
import io
import json
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import hostile
import hostile_checkpoints
import pytest
import torch
from hostile_checkpoints import CALLS, KINDS, archive_of, content_places, entries, with_description

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint, training_state
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.evaluation import Evaluation
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

EXAMPLES = 5
"""Of each kind of damage; the long form is benchmarks/hostile.py."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run within the trial of a cut, and its checkpoint."""
    return hostile_checkpoints.make_run(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def good(source: Path) -> bytes:
    return (source / "good.pt").read_bytes()


@pytest.fixture
def content(good: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(good), weights_only=True)
    return loaded


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def one_line(error: BadInputError) -> str:
    """What is told, which must be a line of bounded length."""
    told = str(error)
    assert len(told) < 1500
    assert "\n" not in told
    return told


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(BadInputError) as error:
        Checkpoint.load(path)
    return one_line(error.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints(source: Path, good: bytes, tmp_path: Path, kind: str) -> None:
    """Every command on one example, the reading alone on the others."""
    folder = tmp_path / "work"
    shutil.copytree(source, folder)
    place = folder / "run" / "checkpoints" / "last-000000003.pt"
    for number in range(EXAMPLES):
        chance = Random(f"{kind} {number}")
        place.write_bytes(KINDS[kind](chance, good))
        with hostile.inside(folder):
            assert hostile.read(place) in (True, False)
            assert not Path(hostile.MARKER).exists()
    if hostile.read(place) is False:
        assert hostile.check_checkpoint(folder, Random(0)) == (False, [])


def test_the_good_one_is_accepted_and_resumed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(source, folder)
    with hostile.inside(folder):
        outcome = hostile.command("train", "--resume", "run", "--quiet")
    assert (outcome.code, hostile.problems(outcome)) == (0, [])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}.{call[1]}")
def test_no_function_is_called(
    tmp_path: Path, good: bytes, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = b"\x80\x02}X\x06\x00\x00\x00format" + hostile_checkpoints._pickled_call(*call) + b"s."
    told = refused(tmp_path, with_description(good, pickled))
    assert f"calls {call[0]}.{call[1]}; only tensors are read" in told
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_storage_longer_than_its_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = saved({"format": 2, "weights": {"a": torch.zeros(7)}})
    pickled = next(c for n, c in entries(data) if n.endswith("data.pkl"))
    assert pickled.count(b"K\x07") == 2
    told = refused(tmp_path, with_description(data, pickled.replace(b"K\x07", b"J\xff\xff\xff\x7f", 1)))
    assert "the storage '0' claims 2147483647 items of FloatStorage, and holds 28 bytes" in told


def test_a_tensor_longer_than_its_storage_makes_no_room(tmp_path: Path) -> None:
    data = saved({"format": 2, "weights": {"a": torch.zeros(7)}})
    pickled = next(c for n, c in entries(data) if n.endswith("data.pkl"))
    before, after = pickled.rsplit(b"K\x07", 1)
    huge = b"\x8a\x06" + struct.pack("<Q", 10**12)[:6]
    told = refused(tmp_path, with_description(data, before + huge + after))
    assert "a tensor of the shape (1000000000000,) claims more than the 7 numbers that are stored" in told


def test_an_expanded_tensor_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content["weights"]["head.weight"] = torch.zeros(()).expand(10**6, 10**6)
    assert "claims more than the 1 numbers" in refused(tmp_path, saved(content))


@pytest.mark.parametrize("make", [lambda one: one, lambda one: one.view(-1)], ids=["the same", "views"])
def test_many_tensors_over_one_storage_are_refused(tmp_path: Path, make: Callable[..., torch.Tensor]) -> None:
    one = torch.zeros(2**18)
    told = refused(tmp_path, saved({"format": 2, "weights": {f"w{i}": make(one) for i in range(20)}}))
    assert "its tensors claim 20971520 bytes, and 1048576 are stored" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: archive_of(e, zipfile.ZIP_DEFLATED), "is compressed, which torch.save never does"),
        (lambda e: archive_of([*e, ("archive/constants.pkl", b"")]), "is none of torch.save's"),
        (lambda e: archive_of([*e, ("other/data/99", b"")]), "is none of torch.save's"),
        (lambda e: archive_of([*e, e[-1]]), "is there twice"),
        (lambda e: b"x" * 50 + archive_of(e), "its directory does not fit the file"),
        (lambda e: archive_of(e) + b"x" * 50, "its directory does not fit the file"),
        (lambda e: archive_of(e[1:]), "it has no data.pkl"),
    ],
    ids=["compressed", "torchscript", "folder", "twice", "prefix", "suffix", "no description"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_torch_save_does_not_write(
    tmp_path: Path, good: bytes, change: Callable[[Any], bytes], told: str
) -> None:
    assert told in refused(tmp_path, change(entries(good)))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(BadInputError, match="not a readable checkpoint: it is not a file"):
        Checkpoint.load(tmp_path / "model.pt")


@pytest.mark.parametrize("width", [2048, 65536])
def test_a_large_model_is_not_built_for_small_weights(
    tmp_path: Path, content: dict[str, Any], width: int
) -> None:
    content["recipe"]["model"].update(model_dim=width)
    content["recipe"]["model"]["layer"].update(state_dim=65536)
    memory = hostile._peak()
    assert "weights do not fit the shapes in the checkpoint" in refused(tmp_path, saved(content))
    assert hostile._peak() - memory < 50 * 2**20


def test_the_orders_at_the_start_of_training_take_no_memory(tmp_path: Path, content: dict[str, Any]) -> None:
    """They may be of any size, and say nothing of the model as it is now."""
    content["recipe"]["model"]["layer"].update(state_dim=65536)
    content["recipe"]["model"].update(model_dim=4)
    path = tmp_path / "model.pt"
    path.write_bytes(saved({**content, "training": None}))
    memory = hostile._peak()
    model = Checkpoint.load(path).build_model()
    assert hostile._peak() - memory < 50 * 2**20
    assert all(torch.equal(value, content["weights"][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["weights", "optimizer"])
def test_numbers_that_are_not_finite(
    tmp_path: Path, content: dict[str, Any], value: float, place: str
) -> None:
    tensors = content["weights"] if place == "weights" else content["training"]["optimizer"]["state"][0]
    name = "head.weight" if place == "weights" else "exp_avg"
    tensors[name].view(-1)[0] = value
    assert f"[{name!r}] has values that are not finite" in refused(tmp_path, saved(content))


SPENT = {"unit": "seconds", "spent": 1.0, "total": 2.0, "uncut": None, "sources": []}


def test_every_part_of_the_training_state_is_looked_at(tmp_path: Path, content: dict[str, Any]) -> None:
    """Something of another type in the place of any mapping, list, number or text is refused, or is never read."""
    for key in content["training"]:
        changed = copy.deepcopy(content)
        changed["training"][key] = 1.5
        assert f"training.{key}" in refused(tmp_path, saved(changed)), key


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["optimizer", "param_groups", 0, "lr"], "x", "lr must be a number that is not negative, found the text 'x'"),
        (["optimizer", "param_groups", 0, "params"], [0], "params must be"),
        (["optimizer", "param_groups"], [{}], "training.optimizer.param_groups must be a list of 3 or 2"),
        (["trial", "saved", "optimizer", "param_groups"], [{}, {}], "param_groups must be a list of 3"),
        (["optimizer", "param_groups", 1, "amsgrad"], True, "amsgrad must be false, found true"),
        (["optimizer", "state", 0, "exp_avg"], torch.zeros(9), "must be a float32 tensor of the shape"),
        (["processes", 0, "random", "cpu"], torch.zeros(7, dtype=torch.uint8), "the state of a random generator"),
        (["processes"], [], "training.processes[0] must be a mapping, found nothing"),
        (["method", "rejections"], -1, "training.method.rejections must be a whole number"),
        (["trial", "until"], "soon", "training.trial.until must be a step, found the text 'soon'"),
        (["trial", "saved", "sizes", "blocks.0.layer:states"], 9, "training.trial.saved: weights do not fit"),
        (["trial", "records", 0, "surprise"], 9, "training.trial.records[0] must be a record of after, "),
        (["trial", "records", 0, "details", "surprise"], 9, "training.trial.records[0].details.surprise: Extra"),
        (["trial", "records", 0, "details", "tail"], "x", "training.trial.records[0].details.tail: Input should"),
        (["trial", "records", 0, "details", "tail"], math.nan, "training.trial.records[0].details.tail: Input should"),
        (["trial", "records", 0, "before"], -1, "training.trial.records[0].before must be a whole number"),
        (["trial", "records", 0, "unit"], None, "training.trial.records[0].unit must be text"),
        (["trial", "records", 0, "scores"], [math.inf], "training.trial.records[0].scores must be a list of num"),
        (["parameters"], [torch.ones(2)], "param_groups must be of the model's parameters and 1 of the method's"),
        (["parameters"], [1.5], "training.parameters[0] must be a float32 tensor, found the number 1.5"),
        (["parameters"], [torch.tensor(math.nan)], "training.parameters[0] has values that are not finite"),
        (["optimizer", "param_groups", 0, "of"], "method", "param_groups must be a list of 3 or 2, and then those of"),
        (["optimizer", "param_groups", 2, "of"], "method", "param_groups must be of the model's parameters and 0"),
        (["began", "blocks.0.layer:states"], -1, "training.began['blocks.0.layer:states'] must be a whole number"),
        (["clock", "total"], None, "training.clock.total must be a number of seconds"),
        pytest.param(["clock", "total"], 10**400, "training.clock.total must be a number of seconds", id="huge"),
        (["clock", "compile"], -1.0, "training.clock.compile must be a number of seconds, found the number -1.0"),
        (["clock", "training_cpu"], -1.0, "training.clock.training_cpu must be null or a number of seconds"),
        (["window", "seconds"], -1.0, "training.window.seconds must be a number of seconds"),
        (["windows", "final"], [-1.0], "training.windows.final must be a list of numbers, none negative"),
        (["trial", "windows"], [0.1, -1.0], "training.trial.windows must be a list of numbers, none negative"),
        (["joules"], [{"value": -5.0, "reason": None, "sources": []}], "joules[0].value must be null or a number"),
        (["budget"], {"unit": "seconds"}, "training.budget must be null or a mapping of sources, spent, total, uncut"),
        (["budget"], {**SPENT, "unit": "flops"}, "training.budget.unit must be seconds or joules, found the text 'flo"),
        (["budget"], {**SPENT, "spent": -1.0}, "training.budget.spent must be a number that is not negative"),
        (["budget"], {**SPENT, "total": math.inf}, "training.budget.total must be a number that is not negative"),
        (["budget"], {**SPENT, "uncut": 0.0}, "training.budget.uncut must be null or a number above 0"),
        (["budget"], {**SPENT, "sources": [1]}, "training.budget.sources must be a list of texts"),
        (["counts"], {"made": 1}, "training.counts must be the counters made, cut and rejected"),
    ],
)  # fmt: skip
def test_nonsense_in_the_training_state(
    tmp_path: Path, content: dict[str, Any], path: list[Any], value: Any, told: str
) -> None:
    container = content["training"]
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = value
    assert told in refused(tmp_path, saved(content))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ([], [1], "fingerprint must be a mapping, found a list"),
        (["spec", "classes"], 0, "fingerprint.spec.classes must be a positive whole number"),
        (["spec", "rows"], [1, 2], "fingerprint.spec.rows must be three whole numbers"),
        (["checksums", "train"], "f" * 31, "fingerprint.checksums['train'] must be a checksum in hexadecimal"),
        (["checksums", "test"], 7, "fingerprint.checksums['test'] must be a checksum in hexadecimal"),
        (["checksums"], {"train": "f" * 32}, "fingerprint.checksums must be of train, validation, test"),
        (["checksums", "other"], "f" * 32, "fingerprint.checksums must be of train, validation, test"),
        (["class_names"], ["a"], "fingerprint.class_names must be null, or at most 100 short texts"),
        (["surprise"], 1, "fingerprint must be a mapping with the keys spec, checksums, class_names"),
    ],
)  # fmt: skip
def test_nonsense_in_what_the_data_are_known_by(
    tmp_path: Path, content: dict[str, Any], path: list[Any], value: Any, told: str
) -> None:
    container, keys = content, ["fingerprint", *path]
    for key in keys[:-1]:
        container = container[key]
    container[keys[-1]] = value
    assert told in refused(tmp_path, saved(content))


@pytest.mark.parametrize("names", [["a"] * 101, ["a" * 101], [1]])
def test_names_of_classes_are_few_and_short(
    tmp_path: Path, content: dict[str, Any], names: list[Any]
) -> None:
    content["fingerprint"]["checksums"]["classes"] = "f" * 32
    content["fingerprint"]["class_names"] = names
    assert "fingerprint.class_names must be null, or at most 100" in refused(tmp_path, saved(content))


def test_a_checkpoint_of_an_older_version_does_not_know_its_data(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    del content["fingerprint"]
    path = tmp_path / "model.pt"
    path.write_bytes(saved(content))
    assert Checkpoint.load(path).fingerprint is None


def test_keys_of_the_training_state_that_are_not_known_are_left_alone(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["training"]["of tomorrow"] = {"a": [1, torch.ones(2)]}
    path = tmp_path / "model.pt"
    path.write_bytes(saved(content))
    assert Checkpoint.load(path).training is not None


def test_the_records_of_others_have_the_fields_that_are_listed() -> None:
    found = Evaluation(loss=1.0, metrics={}, rows=1, labels=1, targets=[])
    assert set(found.state_dict()) == training_state.EVALUATION


def test_places_cover_the_content(content: dict[str, Any]) -> None:
    """The harness itself: damage reaches the innermost values."""
    keys = {key for _, key in content_places(content)}
    assert {"exp_avg", "window_loss", "before", "state_dim", "blocks.1.layer.B_re", "total"} <= keys


# ---- selective layers, whose cuts add parameters ------------------------------------------------------------------


def selective(kind: str) -> Checkpoint:
    small = {"mamba": {}, "mamba2": {"head_dim": 4, "groups": 1}}[kind]
    recipe = recipe_from_mapping(
        {
            "name": "selective",
            "data": {"task": "digits"},
            "model": {"layer": {"kind": kind, "state_dim": 4, **small}, "model_dim": 4},
            "train": {"steps": 1},
            "compression": {"method": "none"},
        },
        "test",
    )
    spec: DataSpec = recipe.data.spec()
    return Checkpoint.of(build_model(recipe.model, spec), recipe, spec, 0)


@pytest.mark.parametrize(
    ("kind", "added", "told"),
    [
        ("mamba", {"B_map": (8, 2, 4)}, "has B_map, which no cut leaves by itself"),
        ("mamba", {"B_map": (8, 4, 4), "C_map": (8, 2, 4)}, "C_map must be float32 of the shape (8, 4, 4)"),
        ("mamba", {"B_map": (8, 4, 65537), "C_map": (8, 4, 65537)}, "B_map has the shape (8, 4, 65537)"),
        ("mamba", {"kept": (8,)}, "kept must be from 0 to 4"),
        ("mamba2", {"B_proj": (4, 4), "C_proj": (4, 4)}, "B_proj has the shape (4, 4) for the order 4"),
        ("mamba2", {"B_proj": (2, 4, 4), "C_proj": (1, 4, 4)}, "B_proj must be float32 of the shape (1, 4, 4)"),
    ],
)  # fmt: skip
def test_what_a_cut_adds_must_fit(tmp_path: Path, kind: str, added: dict[str, Any], told: str) -> None:
    checkpoint = selective(kind)
    for name, shape in added.items():
        value = torch.full(shape, 5, dtype=torch.int64) if name == "kept" else torch.zeros(shape)
        checkpoint.weights[f"blocks.0.layer.{name}"] = value
    checkpoint.save(tmp_path / "model.pt")
    with pytest.raises(BadInputError) as error:
        Checkpoint.load(tmp_path / "model.pt")
    assert told in str(error.value)


# ---- models of others ------------------------------------------------------------------------------------------------

CONFIG = {"model_type": "mamba", "state_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 7}


def foreign(folder: Path, config: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    with pytest.raises(BadInputError) as error:
        exchange.load(folder)
    return one_line(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": 10**4000}, "hidden_size is"),
        ({"state_size": 1e300}, "only a positive whole number up to"),
        ({"vocab_size": 10**15}, "vocab_size is 1000000000000000; only a positive whole number up to 10000000"),
        ({"hidden_act": ["x" * 10**5]}, "hidden_act is"),
        ({"model_type": {"a": 1}}, "model_type is"),
        ({"model_type": "mamba2", "head_dim": 10**4000}, "head_dim is"),
    ],
)  # fmt: skip
def test_absurd_configurations(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    torch.save({"backbone.embeddings.weight": torch.zeros(7, 4)}, tmp_path / "pytorch_model.bin")
    text = json.dumps({**CONFIG, "expand": 2, **{k: v for k, v in change.items() if v != 10**4000}})
    for key in [k for k, v in change.items() if v == 10**4000]:
        text = text[:-1] + f', "{key}": 1{"0" * 4000}' + "}"
    assert told in foreign(tmp_path, text)


def test_json_that_is_nested_too_deep(tmp_path: Path) -> None:
    assert "not usable JSON: nested too deep" in foreign(tmp_path, "[" * 100_000)


@pytest.mark.parametrize("weights", ["malicious", "legacy", "claims"])
def test_pickled_weights_of_others_are_looked_through_first(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = saved({"backbone.embeddings.weight": torch.zeros(7)})
    if weights == "malicious":
        data = with_description(data, b"\x80\x02" + hostile_checkpoints._pickled_call(*CALLS[0]) + b".")
    elif weights == "claims":
        pickled = next(c for n, c in entries(data) if n.endswith("data.pkl"))
        data = with_description(data, pickled.replace(b"K\x07", b"J\xff\xff\xff\x7f"))
    else:
        data = b"\x80\x02" + hostile_checkpoints._pickled_call(*CALLS[0]) + b"."
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    assert "not a readable file of tensors alone (code in it is never run)" in foreign(
        tmp_path, json.dumps(CONFIG)
    )
    assert not (tmp_path / hostile.MARKER).exists()
