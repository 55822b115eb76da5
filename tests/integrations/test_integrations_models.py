"""What language models are asked, and say: the same as one text at a time in double precision."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_models import LENGTH, MODELS, save_llama, save_model, save_own

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.integrations.language_model import LanguageModel
from compressm_cli.integrations.likelihoods import log_likelihoods, rolling_windows
from compressm_cli.integrations.opening import open_language_model
from compressm_cli.integrations.perplexity import BITS, NATS, perplexity

KINDS = [*MODELS, "llama"]
TEXTS = ["Once", " upon a", "7 times 8", "x", "naïve", "a b c d e f g h i j k l"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    """All kinds, in double precision."""
    folder = tmp_path_factory.mktemp("models")
    found = {kind: open_language_model(save_model(folder, kind), device="cpu") for kind in KINDS}
    for model in found.values():
        inner(model).double()
    return found


def inner(model: LanguageModel) -> Any:
    return model._model  # type: ignore[attr-defined]


def scores(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """(length, vocabulary) of one text, by nothing but the model."""
    with torch.no_grad():
        said = inner(model)(torch.tensor([tokens]))
    return (said if isinstance(said, torch.Tensor) else said.logits)[0].double().log_softmax(dim=-1)


def alone(model: LanguageModel, context: list[int], answer: list[int]) -> tuple[float, bool]:
    """The log-likelihood of an answer, and whether it is the greedy one, without a batch or padding."""
    found = scores(model, [*context, *answer][:-1][-model.context :])[-len(answer) :]
    return float(sum(row[token] for row, token in zip(found, answer, strict=True))), (
        found.argmax(-1).tolist() == answer
    )


def some_pairs() -> list[tuple[list[int], list[int]]]:
    """Of all lengths; some share a context and have answers of one token, some are the same, one is too long."""
    encoded = [[byte + 1 for byte in text.encode()] for text in TEXTS]
    pairs = [(a, b) for a in encoded for b in encoded[:4] if len(a) + len(b) <= LENGTH]
    pairs += [(encoded[2], [letter]) for letter in (66, 67, 68, 69)]
    pairs += [pairs[0], (encoded[5] * 2, encoded[0])]
    random.Random(0).shuffle(pairs)
    return pairs


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_each_text_alone(kind: str, models: dict[str, LanguageModel]) -> None:
    model, pairs = models[kind], some_pairs()
    wanted = [alone(model, *pair) for pair in pairs]
    for batch_size in (1, 3, 100):
        found = log_likelihoods(model, pairs, batch_size)
        assert [one.value for one in found] == pytest.approx([value for value, _ in wanted], rel=1e-9)
        assert [one.is_greedy for one in found] == [greedy for _, greedy in wanted]
        assert [one.is_truncated for one in found] == [len(a) + len(b) - 1 > LENGTH for a, b in pairs]
    assert sum(one.is_truncated for one in found) == 1


def test_answers_of_one_token_share_their_context(models: dict[str, LanguageModel]) -> None:
    model, seen = models["decoder"], []
    plain = model.logits
    model.logits = lambda tokens, *rest: (seen.append(tokens.shape), plain(tokens, *rest))[1]  # type: ignore
    context = [5, 6, 7]
    try:
        log_likelihoods(model, [(context, [token]) for token in range(1, 5)], 16)
        log_likelihoods(model, [(context, [8, token]) for token in range(1, 5)] + [([9], [1])], 16)
    finally:
        model.logits = plain  # type: ignore[method-assign]
    assert seen == [(1, 3), (2, 4)]


def greedy(model: LanguageModel, tokens: list[int], count: int) -> str:
    """The most probable text, by the whole model for each token."""
    known = list(tokens)
    for _ in range(count):
        said = scores(model, known)[-1]
        said[list(model.inputs.silent)] = -torch.inf
        known.append(int(said.argmax()))
    return bytes(token - 1 for token in known[len(tokens) :]).decode("utf-8", "replace")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_is_most_probable(kind: str, models: dict[str, LanguageModel]) -> None:
    model, prompts = models[kind], [model_tokens(text) for text in ("Once", "7 times 8", "abcd")]
    wanted = [greedy(model, prompt, 6) for prompt in prompts]
    assert model.write(prompts, 6, []) == wanted
    stop = wanted[0][2:4]
    cut = [text.partition(stop)[0] for text in wanted]
    assert model.write(prompts, 6, [stop, "\x00never"]) == cut


def model_tokens(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


def test_a_model_without_steps_writes_the_same(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = models["hybrid"], [model_tokens(text) for text in ("Once", "7 times 8")]
    wanted = model.write(prompts, 5, [])
    monkeypatch.setattr(type(inner(model)), "step_obstacle", "it was taken away")
    assert model.write(prompts, 5, []) == wanted


@pytest.mark.parametrize("count", [1, 23, 24, 25, 48, 61])
def test_windows_have_each_token_once(count: int, models: dict[str, LanguageModel]) -> None:
    tokens = [1 + n % 200 for n in range(count)]
    windows = list(rolling_windows(tokens, 11, LENGTH))
    assert [token for _, answer in windows for token in answer] == tokens
    assert all(len(context) + len(answer) - 1 <= LENGTH for context, answer in windows)
    found = log_likelihoods(models["decoder"], windows, 4)
    assert not any(one.is_truncated for one in found)


def test_windows_are_those_of_the_harness() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for count in (1, 23, 24, 25, 48, 61):
        tokens = list(range(100, 100 + count))
        pairs = utils.get_rolling_token_windows(tokens, 11, LENGTH, 1)
        wanted = [utils.make_disjoint_window(pair) for pair in pairs]
        assert list(rolling_windows(tokens, 11, LENGTH)) == wanted


def test_the_perplexity_of_a_text(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    text = "one text, ünïcode and all, longer than what the model sees at once"
    file, model = tmp_path / "text.txt", models["decoder"]
    file.write_text(text, encoding="utf-8")
    found = perplexity(model, file, 3)
    tokens = [11, *model_tokens(text)]
    size, total = len(tokens) - 1, 0.0
    for start in range(0, size, LENGTH):
        end = min(start + LENGTH, size)
        shown = tokens[max(0, end - LENGTH) : end]
        said = scores(model, shown)[-(end - start) :]
        total -= float(said.gather(1, torch.tensor(tokens[start + 1 : end + 1])[:, None]).sum())
    assert found.count == size == len(text.encode())
    assert found.score(NATS).value == pytest.approx(total / size, rel=1e-9)
    assert found.score(BITS).value == pytest.approx(total / size / 0.6931471805599453, rel=1e-9)
    same = perplexity(models["llama"], file, 3)
    assert same.hash == found.hash
    assert not found.notes


def test_models_that_cannot_be_asked(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertLMHeadModel

    save_llama(tmp_path / "llama")
    weights = load_file(tmp_path / "llama" / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "llama" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"the weights lack model\.norm\.weight"):
        open_language_model(tmp_path / "llama", device="cpu")
    (tmp_path / "llama" / "tokenizer.json").unlink()
    save_llama(tmp_path / "bert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertLMHeadModel(BertConfig(vocab_size=257, **sizes)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInputError, match="no causal language model"):
        open_language_model(tmp_path / "bert", device="cpu")
    (tmp_path / "bert" / "tokenizer.json").unlink()
    with pytest.raises(BadInputError, match=r"no tokenizer\.json"):
        open_language_model(tmp_path / "bert", device="cpu")


def test_what_a_model_cannot_be_shown(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    save_own(tmp_path / "hybrid.pt", "hybrid")
    with pytest.raises(BadInputError, match=f"--context 25: .* has learned {LENGTH} positions"):
        open_language_model(tmp_path / "hybrid.pt", 25, "cpu")
    assert open_language_model(tmp_path / "hybrid.pt", 9, "cpu").context == 9
    with pytest.raises(BadInputError, match=r"an answer has 25 tokens.*--context 25"):
        log_likelihoods(models["decoder"], [([1], [1] * 25)], 2)
    with pytest.raises(BadInputError, match="has no token"):
        log_likelihoods(models["decoder"], [([1], [])], 2)


def test_a_model_that_says_no_numbers(tmp_path: Path) -> None:
    save_own(tmp_path / "model.pt")
    model = open_language_model(tmp_path / "model.pt", device="cpu")
    torch.nn.init.constant_(inner(model).head.weight, torch.inf)
    with pytest.raises(RunFailedError, match="not finite"):
        log_likelihoods(model, [([1], [2])], 2)
