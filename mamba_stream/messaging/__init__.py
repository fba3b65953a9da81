"""Message queues on the log: publishers, subscribers, producers and consumers.

A message is a row of a topic; sending is appending. Two ways to receive stand on the log's interface alone:

* *Shared*: every message of a topic goes to one of the group's subscribers, wherever they run; each is acknowledged,
  retried or given up by itself (``shared.py``; its books are in ``pending.py``, and where they are kept in
  ``books.py``).
* *By partition*: every partition goes to one of the group's consumers, which reads it in order and commits how far
  (``membership.py``, ``assignment.py``).

From below to above::

    publisher, producer, subscriber, consumer, aio     what users hold
    outbox | delivery | membership                     the live halves: threads, time, other members
    outputs                                            a message's transaction, which can send too
    shared | bounds | deadletters | statistics         what is in the log's records; no threads, time is an argument
    message, rules, routing, assignment                a message, which ones, where to, who reads what: plain values
    schema, pending, books                             rows, runs of offsets, records
"""
