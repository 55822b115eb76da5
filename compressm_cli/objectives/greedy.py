"""Greedy decoding: the most probable token after each, until the end."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def greedy(model: Any, beginnings: Tensor, end: int, most: int) -> Tensor:
    """(rows, at most ``most``) tokens after ``beginnings`` (rows, steps), each the one with the highest score.

    A row that has said ``end`` says it to the last. ``model`` says a score for each token at each step, in evaluation
    mode. Where it has a step by step form, each token is one step; else all steps are gone through for each.
    """
    steps = model.step_obstacle is None
    scores, state = model.prefill(beginnings) if steps else (model(beginnings)[:, -1], None)
    said = beginnings.new_empty(len(beginnings), 0)
    over = torch.zeros(len(beginnings), dtype=torch.bool, device=beginnings.device)
    while True:
        token = torch.where(over, end, scores.argmax(dim=-1))
        said = torch.cat([said, token[:, None]], dim=1)
        over |= token == end
        if said.shape[1] == most or bool(over.all()):
            return said
        if steps:
            scores, state = model.step(token, state)
        else:
            scores = model(torch.cat([beginnings, said], dim=1))[:, -1]
