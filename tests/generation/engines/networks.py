"""Random networks in the text form."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from model_zoos.builders.hyperparameters import ACTIVATIONS


@st.composite
def texts(draw: Any, max_side: int = 14) -> str:
    """A network that fits its images, a few layers of few channels."""

    def number(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    def suffix() -> str:
        own = draw(st.sampled_from([None, None, *ACTIVATIONS]))
        return "" if own is None else f":{own}"

    side = first = number(1, max_side)
    words = []
    for _ in range(number(0, 3)):
        kernel, stride = number(1, 5), number(1, 3)
        padding = number(0, kernel - 1)
        after = (side + 2 * padding - kernel) // stride + 1
        if after < 1:
            break
        word = f"conv{number(1, 9)}k{kernel}s{stride}p{padding}{suffix()}"
        if after >= 2 and draw(st.booleans()):
            word, after = f"{word} pool", after // 2
        words.append(word + draw(st.sampled_from(["", " drop"])))
        side = after
    if words and draw(st.booleans()):
        words[-1] += " gap"
    for _ in range(number(0, 2)):
        words.append(f"fc{number(1, 22)}{suffix()}" + draw(st.sampled_from(["", " drop"])))
    channels, classes = draw(st.sampled_from([1, 3])), number(2, 11)
    return " ".join([f"{channels}x{first}x{first}", *words, f"fc{classes}"])
