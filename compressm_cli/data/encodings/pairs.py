"""Two texts as one row of tokens: what is kept of each where they are too long together."""

LEAST = 3
"""Tokens of a pair: one of each text, and what is between them."""


def kept(first: int, second: int, most: int) -> tuple[int, int]:
    """How many tokens stay of two texts that have so many, ``most`` of both: the longer one loses its end.

    Of equally long ones the second does. Where ``most`` is 2 or more, none of them loses all.
    """
    if first + second <= most:
        return first, second
    half = most // 2
    if first <= half:
        return first, most - first
    if second <= half:
        return most - second, second
    return most - half, half


def require_room(pairs: bool, most: int | None) -> None:
    """ValueError, with what to write, where so many tokens have no room for two texts and what is between them."""
    if pairs and most is not None and most < LEAST:
        raise ValueError(f"max_length is {most}, and a pair takes {LEAST} tokens at least; write more")
