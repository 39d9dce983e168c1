"""The `askbox` command line."""

import os
import sys
from typing import NoReturn

import typer

from services.console.commands import (
    collections,
    doctor,
    documents,
    evaluation,
    ingest,
    keys,
    operation,
    questions,
    status,
)
from shared.errors import AskboxError, ConfigError
from shared.exit_codes import EXIT_CONFIG, EXIT_FAILURE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Drop files into a folder, ask questions, get answers with citations.",
)
for module in (operation, keys, ingest, questions, status, documents, collections, doctor, evaluation):
    app.add_typer(module.app)


def main() -> NoReturn:
    """Run the command and leave with its exit code."""
    try:
        app()
    except ConfigError as error:
        print(f"askbox: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except AskboxError as error:
        print(f"askbox: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    sys.exit(0)


if __name__ == "__main__":
    main()
