"""Tokens that the files beside `tokenizer.json` name, brought to the tokenizer as `transformers` brings them.

`tokenizer_config.json` names tokens by role ("eos_token"), as a list or mapping without roles
("additional_special_tokens", "extra_special_tokens") and by id ("added_tokens_decoder"). Older checkpoints
have `special_tokens_map.json` and `added_tokens.json` instead of the last; there the former wins over the
configuration. Which file wins, and in which order tokens are added and so get their ids, was read off
`TokenizersBackend` of transformers 5.24. In one thing this goes further: a token with a role is special even
where all files disagree, so that the token that ends a turn never shows in text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checks import shown

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# The order in which roles that every model may have are added; those of one model follow as they are named.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class NamedTokens:
    """The tokens that a checkpoint names beside its vocabulary.

    Attributes:
        roles: by role, such as "eos_token".
        others: special tokens without a role.
        added: further tokens in the order of the ids that they should have.
    """

    roles: Mapping[str, AddedToken]
    others: tuple[AddedToken, ...]
    added: tuple[AddedToken, ...]

    @property
    def texts(self) -> dict[str, str]:
        """The text of each token with a role."""
        return {role: token.content for role, token in self.roles.items()}


def read_named_tokens(files: Mapping[str, Mapping[str, Any]], directory: Path) -> NamedTokens:
    """The tokens that the files name.

    Args:
        files: content of those that the checkpoint has of `CONFIG_FILE`, `SPECIAL_TOKENS_FILE` and
            `ADDED_TOKENS_FILE`, by name.
        directory: where they are, for messages.

    Raises:
        CheckpointError: a token is not what it should be; the message names the file and the key.
    """
    config = files.get(CONFIG_FILE, {})
    named = _tokens_of(config, directory / CONFIG_FILE)
    by_id = config.get("added_tokens_decoder")
    if by_id is not None:
        return replace(named, added=_by_id(by_id, directory / CONFIG_FILE))
    older = _tokens_of(files.get(SPECIAL_TOKENS_FILE, {}), directory / SPECIAL_TOKENS_FILE)
    named = NamedTokens({**named.roles, **older.roles}, older.others or named.others, ())
    special = {*named.texts.values(), *(token.content for token in named.others)}
    ids = files.get(ADDED_TOKENS_FILE, {})
    for text, number in ids.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise CheckpointError(
                f"{directory / ADDED_TOKENS_FILE}: {text!r} has the id {shown(number)}; it must be an integer"
            )
    added = tuple(
        AddedToken(text, normalized=text not in special, special=text in special)
        for text in sorted(ids, key=ids.__getitem__)
    )
    return replace(named, added=added)


def add_named_tokens(backend: tokenizers.Tokenizer, named: NamedTokens) -> None:
    """Adds the tokens that the tokenizer lacks, and flags as special those that have a role."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    known |= {token.content: token for token in named.added}
    with_role = {token.content for token in named.roles.values()}
    adding = [*named.added]
    in_order = [role for role in _ROLES if role in named.roles]
    in_order += [role for role in named.roles if role not in _ROLES]
    adding += [known.get(named.roles[role].content, named.roles[role]) for role in in_order]
    adding += [token for token in named.others if token.content not in known]
    backend.add_tokens([_special(token) if token.content in with_role else token for token in adding])


def _special(token: AddedToken) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in _FLAGS}
    return AddedToken(token.content, **(flags | {"special": True}))


def _tokens_of(config: Mapping[str, Any], file: Path) -> NamedTokens:
    """The special tokens that a file names by role or in lists."""
    roles = {}
    for role, value in config.items():
        if role.endswith("_token") and value is not None and not isinstance(value, bool):
            roles[role] = _token(value, f"{file}: {role}")
    others: tuple[AddedToken, ...] = ()
    for key in _LISTS:  # the newer name last: it wins
        value = config.get(key) or []
        if isinstance(value, Mapping):
            roles |= {role: _token(token, f"{file}: {key}[{role!r}]") for role, token in value.items()}
        elif isinstance(value, list):
            tokens = [_token(token, f"{file}: {key}[{at}]") for at, token in enumerate(value)]
            others = tuple(tokens) or others
        else:
            raise CheckpointError(
                f"{file}: {key} is {shown(value)}; it must be a list or an object of tokens"
            )
    return NamedTokens(roles, others, ())


def _by_id(tokens: Any, file: Path) -> tuple[AddedToken, ...]:
    place = f"{file}: added_tokens_decoder"
    if not isinstance(tokens, Mapping):
        raise CheckpointError(f"{place} is {shown(tokens)}; it must be an object of tokens by id")
    for number in tokens:
        if not number.isdecimal():
            raise CheckpointError(f"{place} has the id {number!r}; it must be a whole number")
    made = {int(number): _token(token, f"{place}[{number!r}]", False) for number, token in tokens.items()}
    return tuple(made[number] for number in sorted(made))


def _token(value: Any, place: str, special: bool = True) -> AddedToken:
    """A token given as its text, or as an object with its "content" and flags."""
    if isinstance(value, str):
        value = {"content": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise CheckpointError(
            f"{place} is {shown(value)}; it must be a string or an object that holds 'content'"
        )
    flags = {"special": special} | {flag: value[flag] for flag in _FLAGS if flag in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"{place} is {shown(value)}; its flags must be true or false")
    try:
        return AddedToken(value["content"], **flags)
    except (UnicodeEncodeError, TypeError) as error:
        raise CheckpointError(f"{place} is {shown(value)}, which is no text: {error}") from error
