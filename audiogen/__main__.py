"""`python -m audiogen`, which is also what torchrun starts."""

from audiogen.cli import main

if __name__ == "__main__":
    main()
