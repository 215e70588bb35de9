"""What is raised of artefacts."""


class ArtefactError(ValueError):
    """An artefact cannot be read, or was made for something else; the message names both values."""
