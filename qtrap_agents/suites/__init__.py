"""Task suites: where questions with gold premises come from."""
