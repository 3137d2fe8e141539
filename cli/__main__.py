"""`python -m model_zoos` and `python -m model_zoos.cli`: the command `model-zoos`."""

from model_zoos.cli import main

if __name__ == "__main__":
    main()
