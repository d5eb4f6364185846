"""The benchmarks: pysc beside Linux itself and beside other runtimes, all in one run.  `python -m bench --help`.

`table` is what is measured and what is promised; `plan` the loop over rounds and runtimes; `micro` (with the C program
in guest/), `startup`, `memory` and `programs` measure, on a `ground` of root file systems and a private `containerd`;
`stats`, `report` and `picture` make something readable of it.
"""
