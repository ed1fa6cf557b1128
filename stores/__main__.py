"""`pairwright`, the same as `python -m stores`."""

from stores.cli import main

if __name__ == "__main__":
    main()
