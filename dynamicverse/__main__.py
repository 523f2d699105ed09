"""`python -m dynamicverse`."""

from dynamicverse.cli import main

if __name__ == "__main__":
    main()
