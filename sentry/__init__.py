"""The Sentry: pysc's application kernel.  boot.py wires it; kernel/run.py is its heart."""
