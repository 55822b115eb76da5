"""Checkpoints as no training run writes them: damaged on disk, forged in the archive, nonsense in the content."""

import copy
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import recipe_from_mapping
from compressm_cli.runs.folder import Run

MARKER = "was-run"
RECIPE = {
    "name": "tiny",
    "device": "cpu",
    "data": {"task": "digits"},
    "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 4, "depth": 2, "norm": "batch"},
    "train": {
        "steps": 6, "batch_size": 8, "form": "recurrent", "log_every": 1, "eval_every": 6, "checkpoint_every": 3,
    },
    "compression": {
        "method": "hankel", "keep_fraction": 0.5, "schedule": {"kind": "listed", "at_steps": [2]},
        "safety": {"trial_steps": 10, "tolerance": 1.0},
    },
}  # fmt: skip


def make_run(folder: Path) -> Path:
    """A folder with an unfinished run whose checkpoint is within the trial of a cut, and a good checkpoint."""
    output = {"root": str(folder / "outputs"), "keep_last": 2}
    recipe = recipe_from_mapping({**RECIPE, "output": output}, "test")
    made = experiment.start(recipe, 0, experiment.load_data(recipe), SilentView(), "test")
    run = Run(folder / "run")
    shutil.move(made.folder, run.folder)
    shutil.rmtree(folder / "outputs")
    (run.folder / "summary.json").unlink()
    run.final_checkpoint.rename(folder / "final.pt")
    run.write_info({**run.read_info(), "status": "interrupted"})
    last, end = run.last_checkpoints()
    end.unlink()
    assert torch.load(last, weights_only=True)["training"]["trial"] is not None
    shutil.copy(last, folder / "good.pt")
    return folder


def damaged(chance: Random, good: bytes, folder: Path) -> tuple[str, bytes]:
    """A kind, and the bytes of a damaged or malicious checkpoint; some are still valid."""
    kind = chance.choice(list(KINDS))
    return kind, KINDS[kind](chance, good)


# ---- bytes -----------------------------------------------------------------------------------------------------


def _flipped(chance: Random, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(chance.choice([1, 1, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _truncated(chance: Random, good: bytes) -> bytes:
    return good[: chance.choice([0, 1, 4, 100, chance.randrange(len(good)), len(good) - 1])]


def _zeroed(chance: Random, good: bytes) -> bytes:
    start, size = chance.randrange(len(good)), chance.choice([16, 512, 4096])
    return good[:start] + bytes(len(good[start : start + size])) + good[start + size :]


def _extended(chance: Random, good: bytes) -> bytes:
    extra = bytes(chance.randrange(256) for _ in range(chance.choice([1, 100])))
    return chance.choice([good + extra, extra + good, good + good])


# ---- the archive, with right checksums ---------------------------------------------------------------------------


def entries(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def archive_of(found: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in found:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_description(good: bytes, pickled: bytes) -> bytes:
    """The archive with another data.pkl."""
    return archive_of([(n, pickled if n.endswith("data.pkl") else c) for n, c in entries(good)])


def _forged_archive(chance: Random, good: bytes) -> bytes:
    found = entries(good)
    place = chance.randrange(len(found))
    name, content = found[place]
    folder = name.partition("/")[0]
    change = chance.choice(
        ["bomb", "compressed", "twice", "extra", "renamed", "gone", "swapped", "short", "long"]
    )
    if change == "bomb":
        return archive_of([*found, (f"{folder}/data/9999", bytes(80 * 2**20))], zipfile.ZIP_DEFLATED)
    if change == "compressed":
        return archive_of(found, zipfile.ZIP_DEFLATED)
    if change == "swapped":
        other = chance.randrange(len(found))
        found[place], found[other] = (name, found[other][1]), (found[other][0], content)
    else:
        found[place : place + 1] = {
            "twice": [(name, content), (name, content)],
            "extra": [
                (name, content),
                (f"{folder}/{chance.choice(['constants.pkl', 'code/x.py', '../../x'])}", b"x"),
            ],
            "renamed": [(name + chance.choice(["x", "/", "\x1b[31m", "\u202e"]), content)],
            "gone": [],
            "short": [(name, content[: len(content) // 2])],
            "long": [(name, content + bytes(64))],
        }[change]
    return archive_of(found)


def _flipped_description(chance: Random, good: bytes) -> bytes:
    pickled = next(content for name, content in entries(good) if name.endswith("data.pkl"))
    return with_description(good, _flipped(chance, pickled))


def _spliced_description(chance: Random, good: bytes) -> bytes:
    pickled = next(content for name, content in entries(good) if name.endswith("data.pkl"))
    start = chance.randrange(2, len(pickled))
    piece = chance.choice(
        [b"(", b"0", b"}", b"]", b"K\x01", b"\x85", b"R", b"b", b"Q", b"cos\nsystem\n", b"q\xff", b"r\xff\xff\xff\xff",
         b"h\x00", b"X\xff\xff\xff\xff", b"\x8a\xff" + b"\xff" * 255, b".", b"1", b"2", b"s", b"u", b"a", b"e", b"N"]
    )  # fmt: skip
    return with_description(good, pickled[:start] + piece + pickled[start + chance.randrange(4) :])


# ---- malicious pickles ---------------------------------------------------------------------------------------------

TOUCH = f"touch {MARKER}"
CALLS = [
    ("os", "system", (TOUCH,)),
    ("posix", "system", (TOUCH,)),
    ("subprocess", "getoutput", (TOUCH,)),
    ("subprocess", "Popen", (["touch", MARKER],)),
    ("builtins", "eval", (f"__import__('os').system('{TOUCH}')",)),
    ("builtins", "exec", (f"open('{MARKER}', 'w')",)),
    ("builtins", "open", (MARKER, "w")),
    ("builtins", "getattr", ("os", "system")),
    ("builtins", "bytearray", (10**11,)),
    ("builtins", "__import__", ("this",)),
    ("importlib", "import_module", ("antigravity",)),
    ("runpy", "run_path", ("x.py",)),
    ("pathlib", "Path", (MARKER,)),
    ("torch", "load", (MARKER,)),
    ("torch.hub", "load", ("x", "y")),
    ("torch.jit", "load", (MARKER,)),
    ("collections", "Counter", ("x" * 10,)),
    ("_codecs", "encode", ("x", "utf-8")),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", (1, 2, 3, 4)),
    ("torch._utils", "_rebuild_sparse_tensor", (1, 2)),
    ("torch.serialization", "_get_layout", ("torch.strided",)),
]  # fmt: skip


class Call:
    """Pickles as a call of any function."""

    def __init__(self, module: str, name: str, arguments: tuple[Any, ...]) -> None:
        self.module, self.name, self.arguments = module, name, arguments


def _pickled_call(module: str, name: str, arguments: tuple[Any, ...]) -> bytes:
    """The opcodes of a call."""
    inner = pickle.dumps(arguments, protocol=2)[2:-1]
    return f"c{module}\n{name}\n".encode() + inner + b"R"


def _malicious(chance: Random, good: bytes) -> bytes:
    call = _pickled_call(*chance.choice(CALLS))
    content = chance.choice(
        [
            b"\x80\x02" + call + b".",
            b"\x80\x02}X\x06\x00\x00\x00formatK\x02s0" + call + b".",
            b"\x80\x02}(X\x06\x00\x00\x00formatK\x02X\x07\x00\x00\x00weights" + call + b"u.",
            b"\x80\x02}X\x06\x00\x00\x00format" + call + b"s.",
            b"\x80\x02" + call.replace(b"R", b"\x81") + b".",
            b"\x80\x02ccollections\nOrderedDict\n)R" + call + b"b.",
            b"(" + b"i".join([b"X\x01\x00\x00\x00x", b"os\nsystem\n"]) + b".",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch was-run\x85R.",
        ]
    )
    if chance.random() < 0.25:  # the old format, without an archive
        header = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
        return chance.choice([content, header + pickle.dumps({}, protocol=2) + content])
    return with_description(good, content)


def _other_format(chance: Random, good: bytes) -> bytes:
    buffer = io.BytesIO()
    kind = chance.choice(["legacy", "tar", "json", "text", "script"])
    if kind == "legacy":
        torch.save({"format": 2, "weights": {}}, buffer, _use_new_zipfile_serialization=False)
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in ("pickle", "tensors", "storages"):
                info = tarfile.TarInfo(name)
                info.size = len(
                    content := pickle.dumps(1, protocol=2) + _pickled_call("os", "system", (TOUCH,))
                )
                archive.addfile(info, io.BytesIO(content))
    elif kind == "script":
        return archive_of(
            [(f"m/{n}", b"x") for n in ("data.pkl", "constants.pkl", "code/__torch__.py", "version")]
        )
    else:
        buffer.write(json.dumps({"format": 2}).encode() if kind == "json" else b"hello\x1b[31m\n" * 100)
    return buffer.getvalue()


# ---- claims of sizes -----------------------------------------------------------------------------------------------


def _claims(chance: Random, good: bytes) -> bytes:
    """Numbers within the description, made huge: shapes, strides, offsets, lengths of storages."""
    pickled = bytearray(next(content for name, content in entries(good) if name.endswith("data.pkl")))
    changed = bytes(pickled)
    marks = [
        i
        for i in range(len(changed) - 8)
        if changed[i : i + 8] == b"storage\x71" or changed[i : i + 3] == b"QK\x00"
    ]
    start = chance.choice(marks)
    size = chance.choice(
        [b"\x8a\x05\x00\x00\x00\x00\x10", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"J\xff\xff\xff\x7f", b"K\xff"]
    )
    place = next((i for i in range(start + 8, start + 90) if changed[i : i + 1] == b"K"), start)
    return with_description(good, changed[:place] + size + changed[place + 2 :])


def _bomb(chance: Random, good: bytes) -> bytes:
    """Pickles that are small and grow: by depth, by sharing, by the memo."""
    return with_description(
        good,
        chance.choice(
            [
                b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
                b"\x80\x02" + b")" + b"\x85" * 100_000 + b".",
                b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.",
                b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(100)) + b".",
                b"\x80\x02}X\x06\x00\x00\x00format]q\x00h\x00as.",
                b"\x80\x02}X\x06\x00\x00\x00format"
                + b"".join(b")q%c0h%ch%c\x86" % (0, 0, 0) for _ in range(9))
                + b"s.",
                b"\x80\x02]r\xff\xff\xff\xff.",
                b"\x80\x02X\xff\xff\xff\xff.",
                b"\x80\x02\x8b\xff\xff\xff\x7f.",
                b"\x80\x02" + b"]" * 2_000_000 + b".",
                b"\x80\x02X" + struct.pack("<I", 3_000_000) + b"x" * 3_000_000 + b".",
            ]
        ),
    )


# ---- the content -----------------------------------------------------------------------------------------------------

JUNK: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 2**62, lambda: 10**30, lambda: 1.5, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "\x1b[31m\u202e", lambda: "x" * 5000, list, dict, lambda: (),
    lambda: [1, 2], lambda: {"a": 1}, lambda: {1: 2}, lambda: torch.zeros(3), lambda: torch.zeros(()),
    lambda: torch.zeros(0), lambda: torch.tensor([True]), lambda: torch.ones(4, 4, dtype=torch.complex64),
    lambda: torch.zeros(5056, dtype=torch.uint8), lambda: torch.empty(3, device="meta"),
    lambda: torch.zeros(()).expand(10**6, 10**6), lambda: torch.eye(3).to_sparse(), lambda: torch.float32,
    lambda: [[[[[[]]]]]], lambda: torch.full((4,), float("nan")), lambda: "cpu", lambda: 65537, lambda: b"bytes",
]  # fmt: skip


def content_places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in the content of a checkpoint."""
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [place for key in keys for place in content_places(value[key])]


def _part(chance: Random, content: dict[str, Any]) -> tuple[Any, Any]:
    """A place within a part of the content that is drawn first, so that many tensors do not outweigh the rest."""
    name = chance.choice([*content, "training", "training", "training"])
    if chance.random() < 0.1 or not content_places(content[name]):
        return content, name
    inner = content[name]
    if name == "training":
        key = chance.choice(list(inner))
        if chance.random() < 0.2 or not content_places(inner[key]):
            return inner, key
        inner = inner[key]
    return chance.choice(content_places(inner))


def _retyped(chance: Random, content: dict[str, Any]) -> None:
    container, key = _part(chance, content)
    container[key] = chance.choice(JUNK)()


def _removed(chance: Random, content: dict[str, Any]) -> None:
    container, key = _part(chance, content)
    del container[key]


def _renamed(chance: Random, content: dict[str, Any]) -> None:
    container, key = _part(chance, content)
    if isinstance(container, dict):
        container[chance.choice(["x", f"{key}x", "\x1b[2J", 7, "", "n" * 3000])] = container.pop(key)


def _tensor(chance: Random, content: dict[str, Any]) -> None:
    """Another value, shape or type of a tensor."""
    places = [(c, k) for c, k in content_places(content) if isinstance(c[k], Tensor)]
    container, key = chance.choice(places)
    value: Tensor = container[key]
    container[key] = chance.choice(
        [
            lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value + 1,
            lambda: value * float("inf"),
            lambda: value.double(),
            lambda: value.half() if value.is_floating_point() else value.short(),
            lambda: value[..., None],
            lambda: value.flatten()[:-1],
            lambda: torch.cat([value.flatten()] * 2),
            lambda: torch.zeros((), dtype=value.dtype).expand(value.shape),
            lambda: -value.abs() - 1 if value.is_floating_point() else value,
            lambda: value.mT if value.ndim > 1 else value[None],
            lambda: value.bool(),
            lambda: value.tolist(),
        ]
    )()


def _other_model(chance: Random, content: dict[str, Any]) -> None:
    """A recipe, data or sizes of another model than the weights are of."""
    model, layer = content["recipe"]["model"], content["recipe"]["model"]["layer"]
    change = chance.choice(
        [
            lambda: model.update(model_dim=65536, depth=256),
            lambda: model.update(model_dim=65536),
            lambda: model.update(depth=1),
            lambda: layer.update(state_dim=65536),
            lambda: layer.update(state_dim=[65536, 65536]),
            lambda: model.update(layer={"kind": chance.choice(["mamba", "mamba2", "s4d", "s5", "gla"])}),
            lambda: model.update(norm="layer"),
            lambda: model.update(tie_embeddings=True),
            lambda: content["data"].update(vocabulary=10**9, features=None),
            lambda: content["data"].update(classes=10**12),
            lambda: content["data"].update(length=10**15),
            lambda: content["data"].update(features=3),
            lambda: content["data"].update(rows=(10**30, 1, 1)),
            lambda: content["data"].update(rows=5),
            lambda: content["sizes"].update({"blocks.0.layer:states": 65536}),
            lambda: content["sizes"].update({"blocks.9.layer:states": 2}),
            lambda: content["sizes"].clear(),
            lambda: content["recipe"].update(data={"task": "mqar"}),
            lambda: content["recipe"].update(name="../../x"),
            lambda: content["recipe"].update(output={"root": "\x1b[31m"}),
            lambda: content.update(recipe=[content["recipe"]] * 3),
            lambda: content.update(
                format=chance.choice([0, 2, 4, -1, 10**80, "2", 2.0, True, None, [2], {}])
            ),
            lambda: content.update(step=chance.choice([-1, 10**20, 1.0, True, "3"])),
            lambda: content["weights"].update(
                {f"blocks.0.layer.{n}": torch.zeros(2, 2, 2) for n in ("B_map", "C_map")}
            ),
            lambda: content["weights"].update({f"w{i}": torch.zeros(1) for i in range(500)}),
            lambda: content["masks"].update({"blocks.0.layer.B_re": torch.ones(1)}),
            lambda: content.update(frozen=["blocks.0.layer.B_re", "nothing"]),
            lambda: content.update(frozen=[[]]),
        ]
    )
    change()


def _of_content(change: Callable[[Random, dict[str, Any]], None]) -> Callable[[Random, bytes], bytes]:
    def made(chance: Random, good: bytes) -> bytes:
        content = copy.deepcopy(torch.load(io.BytesIO(good), weights_only=True))
        change(chance, content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    return made


def _not_a_mapping(chance: Random, good: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save(chance.choice([[], 1, None, torch.zeros(3), {"state_dict": {}}, "x", {}]), buffer)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Random, bytes], bytes]] = {
    "bits flipped": _flipped,
    "truncated": _truncated,
    "zeroed": _zeroed,
    "extended": _extended,
    "archive forged": _forged_archive,
    "description flipped": _flipped_description,
    "description spliced": _spliced_description,
    "malicious pickle": _malicious,
    "other format": _other_format,
    "sizes claimed": _claims,
    "bomb": _bomb,
    "content retyped": _of_content(_retyped),
    "content retyped twice": _of_content(lambda c, v: (_retyped(c, v), _retyped(c, v))[0]),
    "content removed": _of_content(_removed),
    "content renamed": _of_content(_renamed),
    "tensor": _of_content(_tensor),
    "other model": _of_content(_other_model),
    "not a mapping": _not_a_mapping,
}
