"""Text of token ids as they come, the same as that of all ids at once.

A decoder of `tokenizers` turns a list of tokens into text in steps. Here each step takes one token or one
piece of text at a time and holds back what later ones can still change: the bytes of an unfinished character,
a run of byte-fallback tokens, the beginning of a pattern that is to be replaced. `Fuse` and `ByteLevel` make
one text of the tokens; what follows them works on that text, what comes before them on the tokens.

What the steps do was read off `tokenizers` itself, by its results for short lists, and is tested against it.
"""

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import tokenizers
from tokenizers import decoders

from jaxmodels.checkpoints.token_inputs import TokenIds, as_ids
from jaxmodels.checkpoints.tokenizer_limits import backend_failures

Decode: TypeAlias = Callable[[list[str]], str]

_CLEAN_UP = (
    *((" " + mark, mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((" " + ending, ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


class DecoderStep(Protocol):
    """One step of a decoder: tokens, or pieces of text, in and out."""

    def push(self, piece: str) -> list[str]:
        """What `piece` completes."""

    def finish(self) -> list[str]:
        """What was held back; called once, after the last piece."""


class StreamDecoder:
    """Decodes ids as they come: the pieces from `push` and `finish` join to `Tokenizer.decode` of them all.

    The work per id does not grow with the number of ids before it, except where a checkpoint has steps after
    its tokens were joined that look at the whole text, as only a regular expression does in practice: there
    all text comes at the end.

    Args:
        backend: the tokenizer.
        skipped: ids without text.
        cleans_up_spaces: also do what `clean_up` does.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, skipped: Collection[int], cleans_up_spaces: bool
    ) -> None:
        self._backend = backend
        self._skipped = skipped
        self._steps = decoder_steps(backend)
        if cleans_up_spaces:
            self._steps += [_ReplacedText(pattern, content) for pattern, content in _CLEAN_UP]

    def push(self, ids: TokenIds) -> str:
        """The text that `ids` complete; possibly empty."""
        with backend_failures("this tokenizer cannot decode these ids"):
            pieces = [
                token
                for number in as_ids(ids)
                if number not in self._skipped and (token := self._backend.id_to_token(number)) is not None
            ]
            return "".join(_through(self._steps, pieces))

    def finish(self) -> str:
        """The text held back until now; call it once, after the last id."""
        with backend_failures("this tokenizer cannot decode these ids"):
            pieces: list[str] = []
            for step in self._steps:
                pieces = [made for piece in pieces for made in step.push(piece)] + step.finish()
            return "".join(pieces)


def decoder_steps(backend: tokenizers.Tokenizer) -> list[DecoderStep]:
    """The steps of a tokenizer's decoder, fresh."""
    if backend.decoder is None:
        return [_SpacedTokens()]
    steps: list[DecoderStep] = []
    is_text = False
    for state in _decoder_states(backend):
        steps += _text_steps(state) if is_text else _token_steps(state)
        is_text = is_text or state["type"] in ("Fuse", "ByteLevel")
    return steps


def clean_up(text: str) -> str:
    """Text without spaces before punctuation and English contractions, as `transformers` cleans up."""
    for pattern, content in _CLEAN_UP:
        text = text.replace(pattern, content)
    return text


def bytes_of_tokens(backend: tokenizers.Tokenizer) -> list[bytes]:
    """By id, the UTF-8 bytes that a token adds to a text that has begun and goes on."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    bytes_of = _bytes_of(backend)
    table = [b""] * (1 + max(vocabulary.values(), default=-1))
    for token, number in vocabulary.items():
        table[number] = bytes_of(token)
    return table


def _bytes_of(backend: tokenizers.Tokenizer) -> Callable[[str], bytes]:
    kinds = [state["type"] for state in _decoder_states(backend)]
    if kinds == ["ByteLevel"]:
        return _byte_level
    decode = " ".join if backend.decoder is None else backend.decoder.decode
    before, after = "\ue000", "\ue001"  # private characters: no token is one of them
    begins, ends = len(before), len(decode([before, after])) - len(before)

    def bytes_of(token: str) -> bytes:
        if "ByteFallback" in kinds and (byte := _fallback_byte(token)) is not None:
            return bytes([byte])
        return decode([before, token, after])[begins:-ends].encode()

    return bytes_of


def _decoder_states(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The tokenizer's decoders in order, as JSON objects, sequences flattened."""
    waiting = [] if backend.decoder is None else [json.loads(backend.decoder.__getstate__())]
    found = []
    while waiting:
        state = waiting.pop(0)
        if state["type"] == "Sequence":
            waiting = state["decoders"] + waiting
        else:
            found.append(state)
    return found


def _token_steps(state: dict[str, Any]) -> list[DecoderStep]:
    """Steps for a decoder that sees the tokens."""
    decode, kind = _from_state(state), state["type"]
    if kind == "Fuse":
        return []  # the pieces of a stream are joined anyway
    if kind == "ByteLevel":
        return [_ByteLevelText()]
    if kind in ("WordPiece", "Metaspace"):
        return [_TokenByToken(decode, before=[""])]
    if kind in ("Replace", "Strip"):
        return [_TokenByToken(decode, before=[])]
    return [_STEPS[kind](decode)]


def _text_steps(state: dict[str, Any]) -> list[DecoderStep]:
    """Steps for a decoder that sees one text, which the decoders before it joined."""
    match state:
        case {"type": "Fuse"}:
            return []
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": content} if pattern:
            return [_ReplacedText(pattern, content)]
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return [_StrippedText(content, start)]
    return [_WholeText(_from_state(state))]


def _from_state(state: dict[str, Any]) -> Decode:
    decoder = decoders.Fuse()  # any: the state carries its type
    decoder.__setstate__(json.dumps(state).encode())
    return decoder.decode


def _through(steps: Sequence[DecoderStep], pieces: Iterable[str]) -> list[str]:
    """What all steps make of the pieces."""
    pieces = list(pieces)
    for step in steps:
        pieces = [made for piece in pieces for made in step.push(piece)]
    return pieces


class _SpacedTokens:
    """Tokens with a space between them, as without a decoder."""

    def __init__(self) -> None:
        self._space = ""

    def push(self, piece: str) -> list[str]:
        space, self._space = self._space, " "
        return [space + piece]

    def finish(self) -> list[str]:
        return []


class _TokenByToken:
    """Tokens that are decoded one by one, the first perhaps in another way than those with `before` them."""

    def __init__(self, decode: Decode, before: list[str]) -> None:
        self._decode, self._later = decode, before
        self._before: list[str] = []

    def push(self, piece: str) -> list[str]:
        text = self._decode([*self._before, piece])
        self._before = self._later
        return [text]

    def finish(self) -> list[str]:
        return []


class _SuffixedTokens:
    """Tokens whose suffix marks the end of a word, which is a space unless the text ends there."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._held: list[str] = []

    def push(self, piece: str) -> list[str]:
        made = [self._decode([held, ""]) for held in self._held]
        self._held = [piece]
        return made

    def finish(self) -> list[str]:
        return [self._decode([held]) for held in self._held]


class _DistinctTokens:
    """Tokens of connectionist temporal classification: repeated ones count once, blanks not at all."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._last: str | None = None

    def push(self, piece: str) -> list[str]:
        if piece == self._last:
            return []
        self._last = piece
        text = self._decode([piece])
        return [text] if text else []

    def finish(self) -> list[str]:
        return []


class _ByteTokens:
    """Runs of byte tokens, which become text as a whole: one invalid byte spoils its neighbours too."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._run: list[str] = []

    def push(self, piece: str) -> list[str]:
        if _fallback_byte(piece) is None:
            return [*self.finish(), piece]
        self._run.append(piece)
        return []

    def finish(self) -> list[str]:
        run, self._run = self._run, []
        if not run:
            return []
        text = self._decode(run)
        return list(text) if text == "\N{REPLACEMENT CHARACTER}" * len(run) else [text]


class _ByteLevelText:
    """Text of byte-level tokens, each of which stands for bytes that may be part of a character."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: str) -> list[str]:
        return [self._utf8.decode(_byte_level(piece))]

    def finish(self) -> list[str]:
        return [self._utf8.decode(b"", final=True)]


class _ReplacedText:
    """Text in which a pattern is replaced; the beginning of one is held back."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = pattern, content
        self._held = ""

    def push(self, piece: str) -> list[str]:
        *done, rest = (self._held + piece).split(self._pattern)
        longest = min(len(rest), len(self._pattern) - 1)
        kept = next(n for n in range(longest, -1, -1) if self._pattern.startswith(rest[len(rest) - n :]))
        self._held = rest[len(rest) - kept :]
        return [self._content.join([*done, rest[: len(rest) - kept]])]

    def finish(self) -> list[str]:
        return [self._held]


class _StrippedText:
    """Text without up to `count` times `content` at its beginning."""

    def __init__(self, content: str, count: int) -> None:
        self._content, self._count = content, count

    def push(self, piece: str) -> list[str]:
        cut = min(len(piece) - len(piece.lstrip(self._content)), self._count)
        self._count = self._count - cut if cut == len(piece) else 0
        return [piece[cut:]]

    def finish(self) -> list[str]:
        return []


class _WholeText:
    """Text that a decoder must see whole."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._held: list[str] = []

    def push(self, piece: str) -> list[str]:
        self._held.append(piece)
        return []

    def finish(self) -> list[str]:
        return [self._decode(["".join(self._held)])]


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # an added token, whose text stands for itself
        return token.encode()


def _fallback_byte(token: str) -> int | None:
    """The byte that a byte-fallback token stands for; None for other tokens."""
    return int(token[3:5], 16) if _BYTE_TOKEN.fullmatch(token) else None


# A plus sign is what Rust's parser of integers accepts besides digits.
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f+][0-9A-Fa-f]>")


def _byte_level_alphabet() -> dict[str, int]:
    """Character to byte in byte-level vocabularies: printable Latin-1 is itself, the rest starts at 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
_STEPS: dict[str, Callable[[Decode], DecoderStep]] = {
    "ByteFallback": _ByteTokens,
    "CTC": _DistinctTokens,
    "BPEDecoder": _SuffixedTokens,
}
