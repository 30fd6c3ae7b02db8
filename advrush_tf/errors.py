"""The errors that a launcher turns into one line on the terminal."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one sentence.

    Launchers print the message without a traceback and exit with code 2.
    """


class NonFiniteLossError(ArithmeticError):
    """A loss or a weight became NaN or infinite during a search or a fit.

    Launchers print the message without a traceback and exit with code 1.
    """
