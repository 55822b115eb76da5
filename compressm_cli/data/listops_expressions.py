"""Random nested list expressions and their values, compiled; the rule of Long Range Arena's ListOps.

Tay et al., "Long Range Arena: A Benchmark for Efficient Transformers", 2021, after Nangia and Bowman, 2018.
An expression is a digit, or an operator with 2 to 10 expressions and a closing bracket.
"""

import numpy as np

from compressm_cli.core.kernels import compiled

PADDING = 0
FIRST_DIGIT = 1
"""Token of the digit 0; the other digits follow."""
FIRST_OPERATOR = 11
"""Token of ``[MIN``; ``[MAX``, ``[MED`` and ``[SM`` follow."""
CLOSE = 15
VOCABULARY = 16

MAX_DEPTH = 10
MAX_ARGUMENTS = 10
OPERATOR_PROBABILITY = 0.25


@compiled()
def _next(state: np.ndarray) -> np.int64:
    """32 random bits by splitmix64, whose stream no library's version changes; state (1,) uint64 advances."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(32))


@compiled()
def _below(state: np.ndarray, limit: int) -> int:
    """A random integer from 0 to limit - 1."""
    return int((_next(state) * limit) >> 32)


@compiled()
def _value(operator: int, arguments: np.ndarray) -> int:
    """Minimum, maximum, median (its whole part) or sum modulo 10 of (n,) digits."""
    if operator == 0:
        return arguments.min()
    if operator == 1:
        return arguments.max()
    if operator == 2:
        ordered = np.sort(arguments)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
    return arguments.sum() % 10


@compiled()
def _draw(state: np.ndarray, tokens: np.ndarray) -> tuple[int, int]:
    """Write one expression to ``tokens``; returns its length, 0 where it does not fit, and its value."""
    operators = np.empty(MAX_DEPTH, np.int64)
    wanted = np.empty(MAX_DEPTH, np.int64)
    given = np.empty(MAX_DEPTH, np.int64)
    arguments = np.empty((MAX_DEPTH, MAX_ARGUMENTS), np.int64)
    chance = np.int64(OPERATOR_PROBABILITY * 2**32)
    depth, length = 0, 0
    while length < len(tokens):
        if depth + 1 < MAX_DEPTH and _next(state) < chance:
            operators[depth] = _below(state, 4)
            wanted[depth] = 2 + _below(state, MAX_ARGUMENTS - 1)
            given[depth] = 0
            tokens[length] = FIRST_OPERATOR + operators[depth]
            length += 1
            depth += 1
            continue
        value = _below(state, 10)
        tokens[length] = FIRST_DIGIT + value
        length += 1
        while depth > 0:
            top = depth - 1
            arguments[top, given[top]] = value
            given[top] += 1
            if given[top] < wanted[top]:
                break
            if length == len(tokens):
                return 0, 0
            tokens[length] = CLOSE
            length += 1
            value = _value(operators[top], arguments[top, : wanted[top]])
            depth = top
        if depth == 0:
            return length, value
    return 0, 0


@compiled()
def draw_expressions(
    state: np.ndarray,
    min_length: int,
    attempts: int,
    tokens: np.ndarray,
    lengths: np.ndarray,
    values: np.ndarray,
) -> int:
    """Fill rows with random expressions of more than ``min_length`` tokens that fit.

    state (1,) uint64 is the random stream, and advances. tokens (rows, width) uint8, lengths (rows,)
    int32 and values (rows,) uint8 are written; rows are padded with 0. Returns how many rows were
    filled: fewer than all where ``attempts`` drawings did not give more.
    """
    filled = 0
    for _ in range(attempts):
        if filled == len(lengths):
            break
        length, value = _draw(state, tokens[filled])
        if length > min_length:
            tokens[filled, length:] = PADDING
            lengths[filled] = length
            values[filled] = value
            filled += 1
    return filled
