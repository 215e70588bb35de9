"""The error of image models whose numbers are none."""


class NotFinite(ValueError):
    """A call of an image model gave numbers that are NaN or infinite."""
