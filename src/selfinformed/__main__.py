"""python -m selfinformed, for torchrun -m."""

from selfinformed.cli import main

main()
