"""The processes of askbox, independent of one another, and the command that runs them."""
