"""``python -m anomalib_i3ad``."""

from .cli import main

if __name__ == "__main__":
    main()
