"""The `advise-ray` command, and `python -m advise_ray`."""

from advise_ray import threads


def run() -> None:
    """Run the command line."""
    threads.restart_prepared()
    from advise_ray.cli import main

    main(prog_name="advise-ray")


if __name__ == "__main__":
    run()
