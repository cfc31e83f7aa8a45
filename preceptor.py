"""The roof: joins the rooms' commands to `preceptor …`, and prints an InputError without a traceback."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from client.answer_command import answer_command
from client.commands import evaluate_command, site_app
from client.pool_command import pool_command
from distill import schemes
from distill.commands import check_contents, distill_command, report_command, schemes_command, tables_command
from distill.export_command import export_command
from distill.predict_command import predict_command
from distill.replay_command import replay_command
from imaging.commands import phantom_command, rescan_command
from imaging.errors import InputError
from server.commands import simulate_command
from server.compare_command import compare_command
from study.commands import study_command
from study.models_command import models_command

app = typer.Typer(
    name="preceptor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Hospitals train teachers on scans that never leave; a light student learns from their answers.

**Try it:** `preceptor simulate studies/prostate.toml` plays three hospitals on this machine and writes a report.

**At a hospital:** `preceptor site check FOLDER`, then `preceptor site serve site.toml`.

**In the centre:** `preceptor distill RUN --scheme consensus`, `preceptor report RUN`,
`preceptor export RUN/distill/consensus`.

**In the clinic:** `preceptor predict SCAN -o MASK --student student.onnx`.
""",
)
app.command("simulate")(simulate_command)
app.command("compare")(compare_command)
app.command("tables")(tables_command)
app.command("phantom")(phantom_command)
app.command("rescan")(rescan_command)
app.add_typer(site_app, name="site")
app.command("answer")(answer_command)
app.command("distill")(distill_command)
app.command("replay")(replay_command)
app.command("pool")(pool_command)
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.command("export")(export_command)
app.command("predict")(predict_command)
app.command("study")(study_command)
app.command("models")(models_command)
app.command("schemes")(schemes_command)


FOR_OTHER_ROOMS = {"schemes": schemes.names(), "fitting": schemes.fitting, "check": check_contents}
"""What commands of rooms without distill must know of it."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; an InputError is one clear line on standard error and exit code 1."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations otherwise asks its server at import
    try:
        app(
            arguments, obj={"schemes": schemes.names(), "fitting": schemes.fitting, "check": check_contents}
        )  # for rooms without distill
    except InputError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()
