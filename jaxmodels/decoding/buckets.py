"""Sizes that programs are compiled for: few enough to be reused, close enough not to waste work."""

SMALLEST = 16
SLOTS = 128


def bucket(size: int) -> int:
    """The smallest bucket that holds `size`: powers of two up to 256, then four per doubling."""
    if size < 1:
        raise ValueError(f"bucket: size must be at least 1, got {size}")
    upper = max(SMALLEST, 1 << (size - 1).bit_length())
    if upper <= 256:
        return upper
    step = upper // 8
    return -(-size // step) * step


def prompt_bucket(size: int, window: int) -> int:
    """The bucket of a prompt fed in windows: beyond one window, a whole number of windows."""
    return bucket(size) if bucket(size) <= window else -(-size // window) * window


def capacity_bucket(prompt_slots: int, max_new: int) -> int:
    """Cache slots for a bucketed prompt and `max_new` (bucketed) tokens."""
    return -(-(prompt_slots + max_new) // SLOTS) * SLOTS
