"""The words of the tasks, and the tokenizer that makes each of them one token."""

from tokenizers import Tokenizer, models, pre_tokenizers

from jaxmodels.training.tokenizer import END_OF_TEXT

MASK = "<|mask|>"
MASK_ID = 1
UNKNOWN = "<|unknown|>"
LARGEST_PLACE = 9  # that a question names, however long its list is

# In alphabetical order, which is what sorting asks for.
_NAMES = """
    Ada Ali Amy Ben Bob Cal Cid Dan Dee Eli Eve Fay Gus Hal Ian Ida Ivy Jan
    Joe Kim Lee Leo Mae Max Meg Ned Nia Ola Pam Ray Rio Sam Sue Ted Una Zoe
"""
NAMES = tuple(_NAMES.split())
# Around thinking, and in front of its further thoughts.
THINK, THOUGHT, CUE = "<think>", "</think>", "wait"
THOUGHTFUL = (THINK, THOUGHT, CUE)
_OPERATIONS = "copy reverse sort shuffle replace insert remove latin with at any"


def build_tokenizer(more: tuple[str, ...] = ()) -> Tokenizer:
    """A tokenizer whose tokens are the words between spaces; `END_OF_TEXT` has id 0, `MASK` has `MASK_ID`.

    Args:
        more: words behind those of the tasks.
    """
    digits = [str(place) for place in range(1, LARGEST_PLACE + 1)]
    words = [END_OF_TEXT, MASK, UNKNOWN, "[", "]", "=", *_OPERATIONS.split(), *digits, *NAMES, *more]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END_OF_TEXT, MASK, UNKNOWN])
    return tokenizer
