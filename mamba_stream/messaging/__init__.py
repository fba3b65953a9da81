"""Message queues on the log: publishers, subscribers, producers and consumers.

A message is a row of a topic; sending is appending. Two ways to receive stand on the log's interface alone:

* *Shared*: every message of a topic goes to one of the group's subscribers, wherever they run; each is acknowledged,
  retried or given up by itself (``shared.py``; its books are in ``pending.py``, and where they are kept in
  ``books.py``).
* *By partition*: every partition goes to one of the group's consumers, which reads it in order and commits how far
  (``membership.py``, ``assignment.py``).

From below to above::

    publisher, producer, subscriber, consumer, aio     what users hold
    groups, redrive, statistics (by survey)            what operators ask and do, from outside; no threads
    outbox | delivery | membership                     the live halves: threads, time, other members
    sending | shared | bounds | deadletters | ...      what is in the log and its records; no threads of their own
    parcel, outgoing                                   rows on their way, and what became of them
    message, rules (of conditions), routing, assignment  a message, which ones, where to, who reads what: plain values
    schema, pending, books                             rows, runs of offsets, records
"""
