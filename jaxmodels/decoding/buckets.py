"""Sizes that programs are compiled for: few enough to be reused, close enough not to waste work."""

SMALLEST = 32
# An answer's slots cost no work, so that short answers of all lengths share programs.
SMALLEST_ANSWER = 64
SLOTS = 128


def bucket(size: int, smallest: int = SMALLEST) -> int:
    """The smallest bucket that holds `size`: powers of two up to 256, then four per doubling."""
    if size < 1:
        raise ValueError(f"bucket: size must be at least 1, got {size}")
    upper = max(smallest, 1 << (size - 1).bit_length())
    if upper <= 256:
        return upper
    step = upper // 8
    return -(-size // step) * step


def prompt_bucket(size: int, window: int) -> int:
    """The bucket of a prompt fed in windows: beyond one window, a whole number of windows."""
    return bucket(size) if bucket(size) <= window else -(-size // window) * window


def answer_bucket(size: int) -> int:
    """The bucket of the tokens that a row may be given."""
    return bucket(size, SMALLEST_ANSWER)


def capacity_bucket(prompt_slots: int, max_new: int) -> int:
    """Cache slots for a bucketed prompt and `max_new` (bucketed) tokens."""
    return -(-(prompt_slots + max_new) // SLOTS) * SLOTS
