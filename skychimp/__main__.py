"""`python -m skychimp` is the same as `skychimp`."""

from skychimp.cli.main import main

if __name__ == "__main__":
    main()
