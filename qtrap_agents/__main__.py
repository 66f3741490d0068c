"""`python -m qtrap_agents` is `qtrap`."""

from qtrap_agents.cli import main

if __name__ == "__main__":
    main()
