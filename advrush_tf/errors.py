"""The errors that a launcher turns into one line on the terminal."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one sentence.

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
