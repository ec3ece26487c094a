"""`python -m odeopt` is the command `odeopt`."""

from .cli import main

main()
