"""What processes that tests start find in the place of pandas.

Arrow imports pandas to know whether what it converts comes from there: of a process that does little, that is a third. What
comes of frames of pandas is tested in the tests' own processes.
"""

raise ModuleNotFoundError("processes of tests have no pandas", name="pandas")
