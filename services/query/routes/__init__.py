"""The routes, one file for each thing that is asked for. Thin: what they do stands in the files beside this folder."""
