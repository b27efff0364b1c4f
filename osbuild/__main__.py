"""`python -m osbuild`, and the entry point of the console script."""

from osbuild.shared.interrupts import exit_on_interrupt


def main() -> None:
    """Run the command line, whose modules take 0.3 s to import."""
    exit_on_interrupt()
    from osbuild.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
