"""How fast the project is. Each figure stands beside a named baseline on the same work and run.

These modules need a checkout, since they use zoos and a Hub of its tests.
"""
