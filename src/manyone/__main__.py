"""``python -m manyone`` is the command line."""

from manyone.cli.main import main

if __name__ == "__main__":
    main()
