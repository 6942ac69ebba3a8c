"""The errors a user can meet; each message says what was wrong, what was expected, what to do."""


class OTPruneError(ValueError):
    """Base of every error that otprune raises on purpose."""


class TokenError(OTPruneError):
    """The tokens are not a finite floating (m, d) or (B, m, d) array."""


class KeepError(OTPruneError):
    """`keep` is neither a ratio in (0, 1] nor a number of tokens >= 1."""


class CueError(OTPruneError):
    """A cue that does not fit the tokens, that the method does not use, or that it lacks."""


class WeightError(CueError):
    """The same of weights."""


class UnsupportedError(OTPruneError):
    """A model, a feature or a combination that otprune refuses rather than prune wrongly."""


class MissingDependencyError(OTPruneError):
    """An optional dependency is needed for what was asked, and is not installed."""


class SelectorError(OTPruneError):
    """A method picked something other than k distinct tokens, or names an unknown cue."""


class FrameError(OTPruneError):
    """A frame of a stream that cannot be read or used; the stream goes on with the next."""


def first_line(cause: BaseException) -> str:
    """The first line of what another library's error says, or else its name."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
