"""`python -m lmbench` is the command `lmbench`."""

from lmbench.cli import main

if __name__ == "__main__":
    main()
