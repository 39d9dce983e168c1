"""What becomes of real files (`python -m tests.formats FOLDER`), and generated ones whose text is known (`truth`)."""
