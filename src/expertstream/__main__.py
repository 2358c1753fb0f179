"""``python -m expertstream``."""

from expertstream.cli.main import main

if __name__ == "__main__":
    main()
