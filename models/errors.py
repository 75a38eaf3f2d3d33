"""What can go wrong in this room: the pretrained model that was asked for."""


class EncoderError(ValueError):
    """The encoder cannot be found or loaded; the message names it and what was expected, on one line."""
