"""The decisions of a node, without input or output.

Everything here takes the time as an argument and returns what it decided; it never awaits, logs, counts, sleeps or
draws random numbers of its own. The linter forbids the imports that would allow it.
"""
