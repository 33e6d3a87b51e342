"""What environments refuse; light to import."""


class ModelError(ValueError):
    """A model is missing, damaged, or another one than is needed; the message says what to do."""
