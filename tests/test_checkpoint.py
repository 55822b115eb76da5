"""A checkpoint describes itself: it reloads anywhere, and what is none is told apart."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import outputs_in_a_fresh_process
from layer_kinds import SMALL
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Split
from compressm_cli.engine.evaluation import calibrate
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.methods.hankel.config import Variant
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.method import CheckContext
from compressm_cli.methods.schedule import ListedSchedule
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.structure import surgery
from compressm_cli.structure.edits import MaskEntries, Train
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.plan import Plan

WIDTH, ORDER, LENGTH = 6, 12, 64


def recipe(kind: str = "lru", state_dim: int = ORDER) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "kept",
            "data": {"task": "digits"},
            "model": {
                "layer": {"kind": kind, "state_dim": state_dim, **SMALL.get(kind, {})},
                "model_dim": WIDTH,
                "depth": 2,
                "norm": "batch",
            },
            "train": {"steps": 1},
            "compression": {"method": "none"},
        },
        "test",
    )


def model_of(a_recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(a_recipe.model, a_recipe.data.spec())
    with torch.no_grad():  # normalization statistics of its own
        model.train()(noise(8))
    return model


def noise(rows: int) -> Tensor:
    return torch.randn(rows, LENGTH, 1, generator=torch.Generator().manual_seed(1))


def cut(model: nn.Module, order: int, variant: Variant = "default") -> None:
    """The first layer to ``order`` states at most, the second to one more."""
    schedule = ListedSchedule(kind="listed", at_steps=[1])
    config = HankelConfig(
        method="hankel",
        target_order=[order, order + 1],
        gramian="analytic",
        variant=variant,
        calibration_batches=1,
        schedule=schedule,
    )
    rows = Split(noise(4), torch.zeros(4, dtype=torch.int64))
    context = CheckContext(
        step=1,
        total_steps=1,
        length=LENGTH,
        generator=torch.Generator(),
        calibrate=lambda wanted, _: calibrate(model, wanted, [rows], 4),
    )
    surgery.apply_plan(model, None, Hankel(config).plan(model, context))


def checkpoint(kind: str = "lru", training: dict[str, Any] | None = None) -> Checkpoint:
    a_recipe = recipe(kind)
    return Checkpoint.of(model_of(a_recipe), a_recipe, a_recipe.data.spec(), 7, training)


# ---- the way there and back ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Tensor]]:
    """A cut model of each kind, and the outputs that a fresh process gets from its checkpoint."""
    folder = tmp_path_factory.mktemp("reloaded")
    models = {}
    for kind in LAYERS:
        models[kind] = model_of(recipe(kind))
        cut(models[kind], 5)
        Checkpoint.of(models[kind], recipe(kind), recipe(kind).data.spec(), 3).save(folder / f"{kind}.pt")
    outputs = outputs_in_a_fresh_process(folder, noise(5), [folder / f"{kind}.pt" for kind in LAYERS])
    return {kind: (models[kind], out) for kind, out in zip(LAYERS, outputs, strict=True)}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_cut_model_gives_identical_outputs_in_a_fresh_process(
    reloaded: dict[str, tuple[nn.Module, Tensor]], kind: str
) -> None:
    model, outputs = reloaded[kind]
    assert all(order < ORDER for order in surgery.orders(model).values())
    with torch.no_grad():
        assert torch.equal(model.eval()(noise(5)), outputs)


def test_everything_comes_back(tmp_path: Path) -> None:
    a_recipe = recipe()
    model = model_of(a_recipe)
    cut(model, 4)
    name = "blocks.1.layer.B_re"
    keep = torch.arange(surgery.orders(model)["blocks.1.layer"])[:, None] < 2
    edits = [MaskEntries(name, keep), Train(["head.bias"], active=False)]
    surgery.apply_plan(model, None, Plan(edits=edits))
    saved = Checkpoint.of(model, a_recipe, a_recipe.data.spec(), 7)
    size = saved.save(tmp_path / "model.pt")
    assert size == (tmp_path / "model.pt").stat().st_size
    loaded = Checkpoint.load(tmp_path / "model.pt")
    assert loaded.recipe == a_recipe
    assert loaded.data == a_recipe.data.spec()
    assert loaded.orders == surgery.orders(model)
    assert loaded.step == 7
    assert loaded.training is None
    rebuilt = loaded.build_model()
    assert surgery.frozen(rebuilt) == ["head.bias"]
    assert torch.equal(masks_of(rebuilt)[name], masks_of(model)[name])
    weights = model.state_dict()
    assert all(torch.equal(value, weights[n]) for n, value in rebuilt.state_dict().items())


@pytest.mark.parametrize("kind", LAYERS)
def test_an_outline_is_all_but_the_values(kind: str) -> None:
    """What the processes beside the main one get: shapes, of the trial's beginning, too."""
    saved = {"weights": {"a": torch.ones(5)}, "masks": {}, "optimizer": {"state": {0: {"m": torch.ones(5)}}}}
    trial = {"until": 9, "saved": {**saved, "random": {"cpu": torch.ones(3)}}}
    optimizer = {"state": {0: {"step": torch.tensor(7.0), "m": torch.ones(5)}}}
    whole = checkpoint(kind, {"seed": 3, "optimizer": optimizer, "trial": trial, "generator": torch.ones(2)})
    outline, random = whole.outline(), torch.get_rng_state()
    assert (whole.is_outline, outline.is_outline) == (False, True)
    assert (outline.orders, outline.frozen, outline.step) == (whole.orders, whole.frozen, whole.step)
    assert outline.training is not None
    assert outline.training["optimizer"]["state"][0]["m"].is_meta
    assert outline.training["optimizer"]["state"][0]["step"] == 7.0
    assert outline.training["generator"].tolist() == [1.0, 1.0]
    before = outline.training["trial"]["saved"]
    assert before["weights"]["a"].is_meta
    assert before["optimizer"]["state"][0]["m"].is_meta
    assert before["random"]["cpu"].tolist() == [1.0, 1.0, 1.0]
    # The other one is as it was.
    assert not optimizer["state"][0]["m"].is_meta
    model = outline.build_model()
    assert all(t.is_meta for t in model.state_dict().values())
    twin = whole.build_model()
    assert [(n, p.shape, p.dtype) for n, p in model.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in twin.named_parameters()
    ]
    assert torch.equal(torch.get_rng_state(), random)


def test_the_file_holds_tensors_and_plain_data_only(tmp_path: Path) -> None:
    checkpoint().save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(content) == {
        "format", "recipe", "data", "sizes", "weights", "masks", "frozen", "parked", "step", "plugins", "training",
            "fingerprint", "encoding",
    }  # fmt: skip
    assert content["recipe"]["name"] == "kept"


def test_a_snapshot_does_not_change_with_the_model() -> None:
    a_recipe = recipe()
    model = model_of(a_recipe)
    snapshot = Checkpoint.of(model, a_recipe, a_recipe.data.spec(), 0)
    before = {name: value.clone() for name, value in snapshot.weights.items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in snapshot.weights.items())


@pytest.mark.parametrize("kind", LAYERS)
def test_a_cut_checkpoint_is_really_smaller(tmp_path: Path, kind: str) -> None:
    a_recipe = recipe(kind, state_dim=40)
    model = model_of(a_recipe)

    def save() -> tuple[Checkpoint, int]:
        snapshot = Checkpoint.of(model, a_recipe, a_recipe.data.spec(), 0)
        return snapshot, snapshot.save(tmp_path / "model.pt")

    whole, size = save()
    # Mamba-2's default adds two small maps; one of the original kind is left by a selection of its states.
    cut(model, 4, "gramian" if kind == "mamba2" else "default")
    small, cut_size = save()
    parameters = [sum(w.numel() for w in c.weights.values()) for c in (whole, small)]
    # What is left beside the weights: names, recipe, the archive's own entries.
    assert size - cut_size >= 0.95 * 4 * (parameters[0] - parameters[1]) > 0
    for weight in Checkpoint.load(tmp_path / "model.pt").weights.values():
        assert weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    """Parameters may share one storage; in a snapshot each has its own."""
    a_recipe = recipe()
    model = model_of(a_recipe)
    layer = state_space_layers(model)["blocks.0.layer"]
    layer.nu_log.data = torch.zeros(100_000)[:ORDER]
    assert Checkpoint.of(model, a_recipe, a_recipe.data.spec(), 0).save(tmp_path / "model.pt") < 100_000


# ---- files that are no checkpoints --------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(BadInputError) as error:
        Checkpoint.load(path).build_model()
    return str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path / "nowhere.pt")


def test_a_folder(tmp_path: Path) -> None:
    assert "not a readable checkpoint" in refused(tmp_path)


def test_a_table_and_half_an_archive(tmp_path: Path) -> None:
    table = tmp_path / "plain.csv"
    table.write_text("a,b\n1,2\n")
    assert "plain.csv: not a readable checkpoint: torch.save wrote no such file; give a" in refused(table)
    table.write_bytes(b"PK\x03\x04")
    assert "plain.csv: not a readable checkpoint: it is cut short" in refused(table)


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a checkpoint", b"\x80\x02.", b"PK\x03\x04"])
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "not a readable checkpoint: " in refused(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "not a readable checkpoint: " in refused(path)


def test_a_damaged_file(tmp_path: Path) -> None:
    """A flipped byte in the archive's description; its checksum tells."""
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    with zipfile.ZipFile(path) as archive:
        (described,) = [i for i in archive.infolist() if i.filename.endswith("data.pkl")]
    data = bytearray(path.read_bytes())
    data[described.header_offset + described.file_size // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    assert str(path) in refused(path)


class Evil:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_with_objects_in_it_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path, content = tmp_path / "model.pt", {"format": 1, "weights": Evil()}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert "not a readable checkpoint" in refused(path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.ones(3), None])
def test_another_programs_file(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert "not a compressm checkpoint" in refused(tmp_path / "model.pt")


def test_a_future_format(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "model.pt")
    assert "checkpoint format 99; this version reads 2, 3" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "missing", ["recipe", "data", "sizes", "weights", "masks", "frozen", "parked", "step", "training"]
)
def test_a_missing_part(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    content = torch.load(path, weights_only=True)
    del content[missing]
    torch.save(content, path)
    assert "damaged checkpoint" in refused(path)


@pytest.mark.parametrize("part", ["weights", "sizes", "data"])
def test_parts_that_do_not_fit_together(tmp_path: Path, part: str) -> None:
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    content = torch.load(path, weights_only=True)
    changes: dict[str, Any] = {
        "weights": {**content["weights"], "head.bias": torch.zeros(3)},
        "sizes": {**content["sizes"], "blocks.0.layer:states": 5},
        "data": {**content["data"], "classes": 7},
    }
    torch.save({**content, part: changes[part]}, path)
    wanted = {"data": "data.classes must be 10, as of the task digits, found the number 7"}
    assert wanted.get(part, "weights do not fit the shapes in the checkpoint") in refused(path)


def test_a_recipe_that_this_version_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    content = torch.load(path, weights_only=True)
    content["recipe"]["model"]["layer"]["kind"] = "unheard-of"
    torch.save(content, path)
    assert "unheard-of" in refused(path)


def test_an_existing_checkpoint_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    checkpoint().save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("compressm_cli.runs.folder.os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            checkpoint("s5").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
