"""The command line as a user calls it."""

from tests.cli.conftest import refused, run  # noqa: F401
