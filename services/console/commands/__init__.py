"""The commands, one file for each thing they are about. All but those of `operation` and `keys` are clients of the HTTP API."""
