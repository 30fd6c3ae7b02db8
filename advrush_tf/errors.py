"""The errors that a launcher turns into one line on the terminal."""

_MAX_CHARACTERS = 200


class UserError(ValueError):
    """A mistake that the user can correct, described in one sentence.

    Launchers print the message without a traceback and exit with code 2.
    """


class WorkerLostError(RuntimeError):
    """A run on many machines ended because one of its workers did.

    Launchers print the message without a traceback and exit with code 1.
    """


class NonFiniteLossError(ArithmeticError):
    """A loss, a derivative or a weight is NaN or infinite.

    Launchers print the message without a traceback and exit with code 1.
    """


def one_line(error: BaseException) -> str:
    """Returns an exception's kind and the start of its message, on one line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if len(text) > _MAX_CHARACTERS:
        text = text[: _MAX_CHARACTERS - 3] + "..."
    return text
