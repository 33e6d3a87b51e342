"""What environments refuse; light to import."""


class ModelError(ValueError):
    """A model is missing, damaged, or of another catalogue; the message names the command that builds it."""
