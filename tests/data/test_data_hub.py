"""Published sets: found on this machine, or refused soon. Nothing here leaves the machine."""

import socket
import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import TASKS, hub
from compressm_cli.data.imdb import Imdb
from compressm_cli.data.scifar import SequentialCifar
from compressm_cli.data.smnist import SequentialMnist

COLUMNS = {"smnist": "image", "scifar": "img"}
SHAPES = {"smnist": (28, 28), "scifar": (32, 32, 3)}
CIFAR_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


@pytest.fixture(autouse=True)
def _lonely(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    names = [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
    ]
    proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    for name in names + proxies:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def arrays(task, rows):
    return np.random.default_rng(rows).integers(0, 256, (rows, *SHAPES[task]), dtype=np.uint8)


def image_rows(task, rows):
    """A set like the published one, of few rows."""
    features = datasets.Features(
        {COLUMNS[task]: datasets.Image(), "label": datasets.ClassLabel(names=[f"c{i}" for i in range(10)])}
    )
    content = {
        COLUMNS[task]: [Image.fromarray(a) for a in arrays(task, rows)],
        "label": [i % 10 for i in range(rows)],
    }
    return datasets.Dataset.from_dict(content, features=features)


def write_parquet(folder, make, train_rows, test_rows, shards=1):
    folder.mkdir(parents=True)
    for split, rows in (("train", train_rows), ("test", test_rows)):
        whole = make(rows)
        count = shards if split == "train" else 1
        for number in range(count):
            part = whole.shard(count, number, contiguous=True)
            part.to_parquet(folder / f"{split}-{number:05d}-of-{count:05d}.parquet")
    return folder


def write_image_folder(folder, task, classes, rows):
    for split, count in rows.items():
        for number, array in enumerate(arrays(task, count)):
            path = folder / split / classes[number % 10] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.mark.parametrize("task", ["smnist", "scifar"])
def test_images_from_parquet(task, tmp_path):
    folder = write_parquet(tmp_path / "data", lambda rows: image_rows(task, rows), 40, 10, shards=2)
    config = TASKS[task](path=str(tmp_path))
    dataset = config.load()
    features = 1 if task == "smnist" else 3
    side = SHAPES[task][0]
    assert config.spec() == dataset.spec
    assert dataset.spec.rows == (36, 4, 10)
    assert (dataset.spec.length, dataset.spec.features) == (side**2, features)
    assert dataset.test.labels.tolist() == list(range(10))
    mean, std = (torch.tensor(v) for v in (config.published.mean, config.published.std))
    pixels = torch.from_numpy(arrays(task, 10)).reshape(10, side**2, features) / 255.0
    assert torch.allclose(dataset.test.inputs, (pixels - mean) / std, atol=1e-5)
    together = torch.cat([dataset.train.inputs, dataset.validation.inputs])
    assert len(together.unique(dim=0)) == 40
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(BadInputError, match=r"no copy of .*; it needs train\*\.parquet"):
        config.load()


@pytest.mark.parametrize(
    ("task", "classes"), [("smnist", [str(i) for i in range(10)]), ("scifar", CIFAR_CLASSES)]
)
def test_images_from_folders_have_the_published_class_numbers(task, classes, tmp_path):
    write_image_folder(tmp_path, task, classes, {"train": 20, "test": 10})
    dataset = TASKS[task](path=str(tmp_path)).load()
    assert dataset.spec.rows == (18, 2, 10)
    assert dataset.test.labels.tolist() == list(range(10))


def test_images_of_another_size_or_number_of_classes_are_refused(tmp_path):
    write_image_folder(tmp_path / "few", "smnist", [str(i % 5) for i in range(10)], {"train": 20, "test": 10})
    with pytest.raises(BadInputError, match="5 classes; ylecun/mnist has 10"):
        SequentialMnist(path=str(tmp_path / "few")).load()
    write_image_folder(tmp_path / "large", "scifar", [str(i) for i in range(10)], {"train": 20, "test": 10})
    with pytest.raises(BadInputError, match="images of 32 x 32 pixels; ylecun/mnist has 28 x 28"):
        SequentialMnist(path=str(tmp_path / "large")).load()


def reviews(rows):
    return datasets.Dataset.from_dict(
        {"text": [f"review {i} " + "é" * i for i in range(rows)], "label": [i % 2 for i in range(rows)]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        ),
    )


def test_reviews_from_parquet_and_from_text_folders_are_the_same(tmp_path):
    folder = write_parquet(tmp_path / "parquet" / "plain_text", reviews, 20, 6)
    reviews(5).to_parquet(folder / "unsupervised-00000-of-00001.parquet")
    for split, rows in (("train", 20), ("test", 6)):
        for number, row in enumerate(reviews(rows)):
            path = tmp_path / "texts" / split / ("neg", "pos")[row["label"]] / f"{number:03d}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row["text"], encoding="utf-8")
    (tmp_path / "texts" / "train" / "unsup").mkdir()
    (tmp_path / "texts" / "train" / "unsup" / "0.txt").write_text("left out")
    config = Imdb(path=str(tmp_path / "parquet"), max_length=30)
    parquet, texts = config.load(), Imdb(path=str(tmp_path / "texts"), max_length=30).load()
    assert parquet.spec == texts.spec == config.spec()
    assert parquet.spec.rows == (18, 2, 6)
    assert parquet.train.inputs.shape == (18, 30)
    assert parquet.train.lengths.max() == 30
    assert parquet.test.labels.tolist() == [0, 1] * 3
    assert texts.test.labels.tolist() == [0] * 3 + [1] * 3
    order = [0, 2, 4, 1, 3, 5]
    assert torch.equal(parquet.test.inputs[order], texts.test.inputs)


def test_a_folder_that_holds_nothing_useful_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="gone: no such folder"):
        Imdb(path=str(tmp_path / "gone")).load()
    with pytest.raises(BadInputError, match="no copy of stanfordnlp/imdb; it needs"):
        Imdb(path=str(tmp_path)).load()
    for name in ("one", "two"):
        write_parquet(tmp_path / name, reviews, 6, 2)
    with pytest.raises(BadInputError, match="several copies of stanfordnlp/imdb; name one of"):
        Imdb(path=str(tmp_path)).load()


def shrink(monkeypatch, task, train_rows, test_rows):
    published = replace(task.published, train_rows=train_rows, test_rows=test_rows)
    monkeypatch.setattr(task, "published", published)


def test_downloads_in_the_cache_are_used_without_the_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "hub" / "datasets--ylecun--mnist" / "snapshots" / "abc"
    write_parquet(snapshot / "mnist", lambda rows: image_rows("smnist", rows), 20, 10)
    monkeypatch.setattr(hub, "_request", lambda address: pytest.fail("the network was used"))
    shrink(monkeypatch, SequentialMnist, 20, 10)
    dataset = SequentialMnist().load()
    assert dataset.spec == SequentialMnist().spec()
    assert dataset.spec.rows == (18, 2, 10)
    shrink(monkeypatch, SequentialMnist, 60, 10)
    with pytest.raises(BadInputError, match=r"have \(18, 2, 10\) rows instead of \(54, 6, 10\).* incomplete"):
        SequentialMnist().load()


def test_sets_prepared_by_the_library_are_used_without_the_network(tmp_path, monkeypatch):
    """The layout in which ``datasets`` keeps a set after ``load_dataset(repository)``."""
    folder = tmp_path / "hub" / "datasets" / "uoft-cs___cifar10" / "plain_text" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    for split, rows in (("train", 20), ("test", 10)):
        saved = tmp_path / split
        image_rows("scifar", rows).save_to_disk(saved)
        next(saved.glob("*.arrow")).rename(folder / f"cifar10-{split}.arrow")
    shrink(monkeypatch, SequentialCifar, 20, 10)
    assert SequentialCifar().load().test.labels.tolist() == list(range(10))


def test_a_reachable_hub_is_asked_and_what_it_gives_is_read(tmp_path, monkeypatch):
    stored = {}
    for split, rows in (("train", 20), ("test", 10)):
        image_rows("smnist", rows).save_to_disk(tmp_path / split)
        stored[split] = datasets.load_from_disk(str(tmp_path / split))
    asked = []
    monkeypatch.setattr(hub, "_request", asked.append)
    monkeypatch.setattr(datasets, "load_dataset", only_for("ylecun/mnist", stored, datasets.load_dataset))
    shrink(monkeypatch, SequentialMnist, 20, 10)
    assert SequentialMnist().load().test.labels.tolist() == list(range(10))
    assert asked == ["http://127.0.0.1:9/api/datasets/ylecun/mnist"]


def only_for(repository, result, otherwise):
    def load(name, *args, **options):
        if name != repository:
            return otherwise(name, *args, **options)
        if isinstance(result, Exception):
            raise result
        return result

    return load


def test_a_failed_download_says_how_to_supply_the_data(monkeypatch):
    monkeypatch.setattr(hub, "_request", lambda address: None)
    failure = only_for("ylecun/mnist", ConnectionError("cut off"), datasets.load_dataset)
    monkeypatch.setattr(datasets, "load_dataset", failure)
    with pytest.raises(BadInputError, match=r"the download failed \(cut off\)\. .*data\.path=DIR"):
        SequentialMnist().load()


@pytest.mark.parametrize("task", ["smnist", "scifar", "imdb"])
def test_without_a_network_one_message_tells_what_to_do(task, tmp_path):
    started = time.monotonic()
    with pytest.raises(BadInputError) as caught:
        TASKS[task]().load()
    assert time.monotonic() - started < 3.0
    message = str(caught.value)
    repository = {"smnist": "ylecun/mnist", "scifar": "uoft-cs/cifar10", "imdb": "stanfordnlp/imdb"}[task]
    assert "\n" not in message
    for part in (repository, str(tmp_path / "hub"), "127.0.0.1:9", "data.path=DIR", "hf download", "HF_HOME"):
        assert part in message


def test_a_hub_that_does_not_answer_is_given_up_in_time(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(BadInputError, match=r"cannot be reached \((timed out|no answer within 2 s)\)"):
            Imdb().load()
        assert 1.5 < time.monotonic() - started < 3.0


def test_a_name_look_up_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(20))
    started = time.monotonic()
    with pytest.raises(BadInputError, match="no answer within 2 s"):
        Imdb().load()
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_mode_is_heeded(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(hub, "_request", lambda address: pytest.fail("the network was used"))
    with pytest.raises(BadInputError, match=f"{name} is set, so the hub was not asked"):
        Imdb().load()
