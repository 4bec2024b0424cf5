"""Evaluates uploaded models and rule sets in a confined process of their own.

`worker` starts and asks that process; `__main__` runs in it. The process imports its libraries,
gives up its access to files, network and other processes (`sandbox`), and only then receives the
upload through its standard input. A message is a header (length and kind) and a body; the server
sends one document and then questions, and receives one answer for each, in their order.
"""
