"""python -m app COMMAND ...: see command_line.py.

`doctor` is needed when packages are missing, so it is found before any of them is imported.
"""

import sys


def main(arguments: list[str]) -> int:
    """Run a command; returns the exit code."""
    if arguments[:1] == ["doctor"]:
        from app.commands.doctor import main as doctor

        return doctor(arguments[1:])
    from app.commands.command_line import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
