"""Run the command line for `python -m skychimp`."""

from skychimp.cli.main import main

if __name__ == "__main__":
    main()
