"""Message queues on the log: publishers, subscribers, producers and consumers.

A message is a row of a topic; sending is appending. Two ways to receive stand on the log's interface alone:

* *Shared*: every message of a topic goes to one of the group's members, wherever they run; each is leased, and then
  acknowledged, retried or given up by itself. A group is runs of offsets in small records (``pending.py``), changed by
  compare and swap (``shared.py``, ``taking.py``, ``settling.py``); nobody is in charge.
* *By partition*: every partition goes to one of the group's consumers, which reads it in order and commits how far
  (``membership.py``, ``assignment.py``, ``lanes.py``).

From above to below, each on what stands under it::

    publisher  producer  subscriber  consumer  aio         what users hold
    groups  redrive  statistics                            what operators ask and do, from outside
    outbox  |  courier  slots  |  feed  sharedfeed         the live halves: threads, time, other members
    sending  bounds  |  sharing  shared  taking  settling  lease  sweeping  |  membership  lanes
                                                           a step at a time in the log's records; time is an argument
    sight                                                  what there is to take, in one look
    accounts  source  deadletters  members  survey         records and rows of one kind, read and written
    outgoing  parcel  outputs  |  rules  conditions  fitting  routing  |  assignment  interest  parts  latency
                                                           what goes out, which messages, who reads what: values
    message  schema  pending  books  priorities  terms     a message, a row, a run of offsets, a record, and how much
"""
