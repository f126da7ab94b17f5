"""Run the command line as `python -m selfexplain`, for `accelerate launch -m selfexplain`."""

from selfexplain.cli import app

if __name__ == "__main__":
    app()
