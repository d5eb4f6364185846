"""Builds and owns one sandbox: the Sentry, its gofers, their confinement, cgroups and state.  See README.md."""
