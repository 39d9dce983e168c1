"""`doctor`: what is wrong with this machine or these settings, and what to do."""

from dataclasses import asdict

import typer
from rich.text import Text

from services.console.commands.output import AsJson, console, print_json
from services.console.doctor.findings import Finding, Level
from services.console.doctor.settings import DoctorSettings
from shared.exit_codes import EXIT_FAILURE

app = typer.Typer()
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> None:
    """Look at everything that askbox needs; exit code 1 when something stops it. Starts and changes nothing."""
    from services.console.doctor.diagnose import diagnose

    findings = diagnose(DoctorSettings.read())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            console.print(_line(finding))
        counts = {level: sum(finding.level is level for finding in findings) for level in Level}
        print(f"{counts[Level.OK]} fine, {counts[Level.WARN]} to know, {counts[Level.FAIL]} to repair")
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(EXIT_FAILURE)


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level.value:4} ", style=_STYLES[finding.level])
    line.append(f"{finding.check}: ", style="bold").append(finding.found, style="not bold default")
    return line.append(f". {finding.advice}", style="not bold default") if finding.advice else line
