"""What a person is told when something they gave cannot work; anything else that is raised is a bug of ours.

A message says, in this order: where, what was found, why it cannot work, what to type instead.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The person can mend this. The command line prints the message alone and ends with exit code 2."""


class ConfigError(UserError):
    """A recipe, an option or a combination of them."""


class DataError(UserError):
    """A data file or a row of it."""


class ModelError(UserError):
    """A model folder, a tokenizer, or an artifact."""


class CapabilityError(ModelError):
    """What was asked is beyond this kind of model (an endpoint gives no likelihoods): a figure is then not applicable, with this reason."""


class TrainingError(UserError):
    """Training cannot go on: a loss that is not finite or has exploded."""


class StorageError(UserError):
    """A folder that cannot be written, or is taken."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the option nearest to `word`, or "" when none is near."""
    near = get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
