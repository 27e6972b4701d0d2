"""What is shown to people; rich is imported by :mod:`genrec.terminal.console` alone, so that help is quick."""
