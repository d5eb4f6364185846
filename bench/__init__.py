"""The benchmarks: pysc beside Linux itself and beside other runtimes, all in one run.  `python -m bench --help`."""
