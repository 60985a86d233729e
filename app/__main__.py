"""`python -m app COMMAND ...`: see commands/command_line.py."""

import sys

from app.commands.command_line import run as main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
