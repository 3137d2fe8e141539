"""How fast the project is, each figure beside a named baseline on the same work in the same run."""
