"""How well a model predicts a text: nats and bits a byte, which are comparable over tokenizers."""

import math
from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Ids
from compressm_cli.data.sources.packed import opened
from compressm_cli.data.sources.text import plain_text
from compressm_cli.integrations.language_model import LanguageModel
from compressm_cli.integrations.likelihoods import Progress, log_likelihoods, rolling_windows
from compressm_cli.reports.task_results import Item, Score, TaskResult, hash_of, identity

NATS, BITS, PERPLEXITY = "nats a byte", "bits a byte", "byte perplexity"


def perplexity(
    model: LanguageModel, path: Path, batch_size: int, progress: Progress | None = None
) -> TaskResult:
    """The log-likelihood of a file of text, each byte counted once, by windows of what the model sees at once.

    Raises BadInputError for a file that is no UTF-8 text, or is empty, and for a model that reads no text.
    """
    with opened(path) as file:
        content = plain_text(file.read(), str(path))
    if not content:
        raise BadInputError(f"{path}: there is no text in it; give one that the model was not trained on")
    prefix = model.prefix()
    if isinstance(model.inputs, Ids) or prefix is None:
        raise BadInputError(
            f"{model.name}: reads numbers of tokens, of which it is not known what bytes they are"
        )
    text = content.decode("utf-8")
    tokens = model.encode(text)
    windows = list(rolling_windows(tokens, prefix, model.context))
    nats = -sum(one.value for one in log_likelihoods(model, windows, batch_size, progress)) / len(content)
    scores = {NATS: nats, BITS: nats / math.log(2), PERPLEXITY: math.exp(min(nats, 700.0))}
    given_back = model.inputs.decode(tokens) == text
    lossy = "the tokenizer does not give back the text; what it leaves out costs nothing: the numbers are too small"
    item = Item(
        id=identity([text]), values=dict(scores), details={"tokens": len(tokens), "windows": len(windows)}
    )
    return TaskResult(
        task="perplexity",
        source=str(path),
        count=len(content),
        what="byte",
        hash=hash_of([item.id]),
        scores=[Score(metric=name, value=value) for name, value in scores.items()],
        items=[item],
        notes=[] if given_back else [lossy],
    )
