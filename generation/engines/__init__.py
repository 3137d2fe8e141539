"""How a population is trained; each engine is one file or folder."""
