"""``python -m medcycle`` (and ``torchrun -m medcycle``) is the command line."""

from medcycle.cli import main

main()
