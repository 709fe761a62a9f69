"""`python -m nerclient`."""

from nerclient.cli import main

main()
