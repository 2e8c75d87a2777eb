"""`python -m pavane` is the command `pavane`."""

from pavane.cli.main import main

main()
