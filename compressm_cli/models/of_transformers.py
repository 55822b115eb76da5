"""Networks of transformers by their configuration alone: which class, which configuration, what they take and give."""

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Literal

from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import error_line, shorten

Task = Literal["language", "classification"]
CUT = "compressm_cut"
"""``model_type`` of networks that are saved with code for their sizes (``modeling_cut.py``)."""
AUTO: dict[Task | None, str] = {
    "language": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
}
LONGEST_ERROR = 300
"""Characters of an error of transformers that are told."""
WRITE_ARCHITECTURES = 'write it, such as "architectures": ["LlamaForCausalLM"]'
COUNTS = re.compile(r"^(n_|num_).*(layers?|blocks?|experts?)$|^depths?$|^layers$")
"""Keys of a configuration that say how often something is built."""
MOST_BUILT = 1000
POSITIONS = "max_position_embeddings"


def network_of(config: dict[str, Any], where: object) -> Any:
    """A network with fresh weights, from torch's random state and of torch's default device and type.

    Raises BadInputError where transformers has no such network, or cannot build it.
    """
    network, settings = configured(config, where)
    try:
        with quiet():
            return network(settings)
    except Exception as error:  # sizes that do not go together are told in many ways
        raise BadInputError(
            f"{where}: no {network.__name__} can be built as it says: {said_by(error)}"
        ) from error


def configured(config: dict[str, Any], where: object) -> tuple[Any, Any]:
    """The class and transformers' object of a configuration, also of a network that was saved with its sizes.

    The code of such a one is that of this package, whatever lies beside its weights. Raises BadInputError where there
    is no such network.
    """
    base = class_of(config, where)
    if config.get("model_type") != CUT:
        return base, transformers_config(config, where)
    kind = base.config_class.model_type
    transformers_config({**config, "model_type": kind}, where)  # which refuses what is none
    from compressm_cli.models.modeling_cut import classes  # which needs transformers

    _require_sizes(config["cut"], where)
    config_class, network = classes(base.__name__)
    return network, config_class.from_dict({k: v for k, v in config.items() if k != "model_type"})


def task_of(config: dict[str, Any]) -> Task | None:
    """What the outputs of a configuration's network are, by the name of its class: scores of the next tokens, or of
    classes; None for anything else."""
    name = next(iter(_architectures(config)), "")
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "language"
    return "classification" if name.endswith("ForSequenceClassification") else None


def class_of(config: dict[str, Any], where: object) -> Any:
    """transformers' class of the network that a configuration tells; BadInputError where there is none."""
    transformers, names = library(), _architectures(config)
    if "model_type" in config:
        _kind(config, where)
    if not names:
        raise BadInputError(
            f"{where}: architectures is missing: the class of the network; {WRITE_ARCHITECTURES}"
        )
    found = getattr(transformers, names[0], None) if names[0].isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        close = get_close_matches(names[0], [n for n in dir(transformers) if n[:1].isupper()], n=3)
        raise BadInputError(
            f"{where}: transformers {transformers.__version__} has no network {shorten(names[0])} (architectures)"
            + (f"; close: {', '.join(close)}" if close else "")
        )
    return found


def transformers_config(config: dict[str, Any], where: object) -> Any:
    """transformers' object of a configuration's mapping; BadInputError where it takes it for none."""
    transformers = library()
    kind = _kind(config, where)
    known = transformers.CONFIG_MAPPING
    if kind not in known:
        close = get_close_matches(kind, list(known.keys()), n=3)
        raise BadInputError(
            f"{where}: transformers {transformers.__version__} has no model_type {shorten(kind)}"
            + (f"; close: {', '.join(close)}" if close else "")
        )
    _require_bounded(config, where)
    try:
        with quiet():
            return known[kind].from_dict(config)
    except Exception as error:  # what its checks raise is of many kinds
        raise BadInputError(f"{where}: no configuration of {kind}: {said_by(error)}") from error


def positions_of(settings: Any) -> int | None:
    """How many steps a network takes, as the configuration of its texts says it; None where it does not."""
    found = getattr(settings, POSITIONS, None)
    return found if isinstance(found, int) else None


def _kind(config: dict[str, Any], where: object) -> str:
    kind = config.get("model_type")
    if isinstance(kind, str):
        return kind
    wrong = "missing" if kind is None else shorten(str(kind))
    raise BadInputError(f'{where}: model_type is {wrong}; write it, such as "model_type": "llama"')


def _require_sizes(cut: dict[str, Any], where: object) -> None:
    """BadInputError where what is set of a network's modules would be anything but sizes."""
    shapes, numbers = cut.get("shapes"), cut.get("numbers")
    if isinstance(shapes, dict) and isinstance(numbers, dict):
        values = [value for part in numbers.values() if isinstance(part, dict) for value in part.items()]
        whole = all(isinstance(part, dict) for part in numbers.values())
        named = all(not name.startswith("_") for name, _ in values)
        if whole and named and all(map(_is_size, [*shapes.values(), *(value for _, value in values)])):
            return
    raise BadInputError(f"{where}: cut: not the sizes of a network that was cut; save it again")


def _is_size(value: object) -> bool:
    return type(value) is int or (isinstance(value, list) and all(type(one) is int for one in value))


def _require_bounded(config: dict[str, Any], where: object) -> None:
    """BadInputError where a network would be built of more modules than any is: that takes forever, also without
    memory for weights. Or where it takes no steps."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value[: MOST_BUILT + 1]]
        elif key == POSITIONS and type(value) in (int, float) and not value >= 1:
            raise BadInputError(f"{where}: {key} is {value}; a network takes one step at least")
        elif type(value) in (int, float) and COUNTS.search(key) and abs(value) > MOST_BUILT:
            raise BadInputError(f"{where}: {shorten(key)} is {value}; at most {MOST_BUILT} can be built")


def library() -> ModuleType:
    """transformers; BadInputError, with what to install, where it is not there."""
    try:
        import transformers
    except ImportError as error:
        raise BadInputError(
            "networks of other folders need the package transformers; install it with: pip install 'compressm[export]'"
        ) from error
    return transformers


def takes(module: nn.Module) -> set[str]:
    """Names of what its ``forward`` takes."""
    return set(inspect.signature(module.forward).parameters)


def said_by(error: Exception) -> str:
    """What an error of transformers says, on one line that is not too long."""
    text = error_line(error, lambda _: False).partition(": ")[2]
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 4]} ..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the reports and bars of transformers, which tell what is told as an error or is of no concern."""
    logging = library().utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _architectures(config: dict[str, Any]) -> list[str]:
    names = config.get("architectures")
    if config.get("model_type") == CUT:
        cut = config.get("cut")
        names = [cut.get("architecture")] if isinstance(cut, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
