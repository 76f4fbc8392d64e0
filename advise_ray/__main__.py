"""`python -m advise_ray`: the command line."""

from advise_ray.cli import main

main(prog_name="advise-ray")
