"""Speed of the project. Each figure is compared with a named baseline on the same work and run.

These modules need a checkout, since they use zoos and a Hub from its tests.
"""
