"""``python -m cmae_mm`` is ``cmae-mm``."""

from cmae_mm.cli import main

if __name__ == "__main__":
    main()
