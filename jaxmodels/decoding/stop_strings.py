"""Stop strings: found across token boundaries on the device, cut from text on the host.

A string is looked for in the bytes that tokens stand for. One automaton for all strings (Aho and Corasick
1975) says after each byte how much of which string has been seen. Fed with all bytes of every token
beforehand, it becomes a table from state and token to state, so that a compiled loop does one look-up per
token and row.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# States are padded to a multiple of this, so that other strings of like lengths compile nothing.
STATE_SLOTS = 32


class TextDecoder(Protocol):
    """Turns ids that come a few at a time into text; the pieces join to the text of all of them."""

    def push(self, ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


class Vocabulary(Protocol):
    """What a tokenizer says of its tokens: the bytes of each, and the texts of those that do not show."""

    def token_bytes(self) -> list[bytes]: ...
    def special_texts(self) -> dict[int, str]: ...


def stop_table_of(
    vocabulary: Vocabulary, strings: tuple[str, ...], ends: tuple[int, ...], vocab_size: int
) -> np.ndarray:
    """`stop_table` for the tokens of a tokenizer, of which `ends` do not show in text; a few are kept."""
    return _kept_table(_Same(vocabulary), strings, ends, vocab_size)


@dataclass(frozen=True, eq=False)
class _Same:
    """A vocabulary as a key, equal to itself alone."""

    vocabulary: Vocabulary

    def __hash__(self) -> int:
        return id(self.vocabulary)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.vocabulary is self.vocabulary


@functools.lru_cache(maxsize=4)  # for a vocabulary of 150,000 it takes a second
def _kept_table(same: _Same, strings: tuple[str, ...], ends: tuple[int, ...], vocab_size: int) -> np.ndarray:
    data, unseen = same.vocabulary.token_bytes(), same.vocabulary.special_texts()
    for token in ends:
        if token < len(data):
            unseen[token], data[token] = data[token].decode(errors="replace"), b""
    return stop_table(strings, data, vocab_size, unseen)


def stop_table(
    strings: Sequence[str], token_bytes: Sequence[bytes], vocab_size: int, unseen: Mapping[int, str]
) -> np.ndarray:
    """i16[states, vocab_size]: the state after a token. State 0 begins; the last is "found" and final.

    Args:
        strings: texts to look for, none of them empty.
        token_bytes: what each id adds to the text; ids beyond it, and those without bytes, change nothing.
        vocab_size: ids of the model.
        unseen: tokens that do not show in text, with their own: one that holds a string is a find.

    Raises:
        ValueError: the strings have more bytes than states can count.
    """
    after_byte = _automaton([text.encode() for text in strings])
    states = -(-len(after_byte) // STATE_SLOTS) * STATE_SLOTS
    if states > np.iinfo(np.int16).max:
        raise ValueError(f"stop_strings: {len(after_byte)} bytes in all are more than can be looked for")
    found = states - 1
    after_byte = np.where(after_byte == len(after_byte) - 1, found, after_byte).astype(np.int16)
    known = token_bytes[:vocab_size]
    lengths = np.fromiter(map(len, known), np.int64, len(known))
    begins, flat = np.cumsum(lengths) - lengths, np.frombuffer(b"".join(known), np.uint8)
    table = np.repeat(np.arange(states, dtype=np.int16)[:, None], vocab_size, axis=1)
    for place in range(int(lengths.max(initial=0))):
        ids = np.flatnonzero(lengths > place)
        byte = flat[begins[ids] + place]
        for state in range(len(after_byte) - 1):
            before = table[state, ids]
            is_open = before != found
            table[state, ids[is_open]] = after_byte[before[is_open], byte[is_open]]
    for token, text in unseen.items():
        if token < vocab_size and any(string in text for string in strings):
            table[:, token] = found
    return table


def _automaton(strings: Sequence[bytes]) -> np.ndarray:
    """int[states, 256]: the state after a byte; 0 begins, the last state is "found"."""
    children: list[dict[int, int]] = [{}]
    ends: set[int] = set()
    for string in strings:
        node = 0
        for byte in string:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
            node = children[node][byte]
        ends.add(node)
    count = len(children)
    after = np.zeros((count + 1, 256), np.int64)
    after[count] = count
    suffix, waiting = [0] * count, [0]
    while waiting:  # breadth first: a state's longest proper suffix is nearer to the root
        node = waiting.pop(0)
        after[node] = 0 if node == 0 else after[suffix[node]]
        if suffix[node] in ends:
            ends.add(node)
        for byte, child in children[node].items():
            suffix[child] = int(after[node, byte])
            after[node, byte] = child
            waiting.append(child)
    after[np.isin(after, list(ends))] = count
    return after


def cut(text: str, strings: Sequence[str]) -> str:
    """`text` up to the stop string that is complete first."""
    at = _first(text, strings)
    return text if at is None else text[:at]


class CutText:
    """A decoder whose text ends before a stop string; what may be the beginning of one is held back."""

    def __init__(self, decoder: TextDecoder, strings: Sequence[str]) -> None:
        self._decoder, self._strings = decoder, strings
        self._held, self._ended = "", False

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` make certain; possibly empty."""
        return self._release(self._decoder.push(ids))

    def finish(self) -> str:
        """The text held back until now; call it once, after the last id."""
        text = self._release(self._decoder.finish()) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self._ended:
            return ""
        self._held += text
        at = _first(self._held, self._strings)
        if at is not None:
            text, self._held, self._ended = self._held[:at], "", True
            return text
        longest = max((len(string) - 1 for string in self._strings), default=0)
        keep = next(
            size
            for size in range(min(longest, len(self._held)), -1, -1)
            if size == 0 or any(string.startswith(self._held[-size:]) for string in self._strings)
        )
        at = len(self._held) - keep
        text, self._held = self._held[:at], self._held[at:]
        return text


def _first(text: str, strings: Sequence[str]) -> int | None:
    """Where the string begins that is complete first."""
    found = [(text.find(string) + len(string), text.find(string)) for string in strings if string in text]
    return min(found)[1] if found else None
