"""``Subscriber``: callbacks for messages. Returning acknowledges, raising means a retry."""

from __future__ import annotations

import asyncio
import fnmatch
import inspect
import logging
import os
import random
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, Reject, StaleLease, TopicNotFound
from mamba_stream.log import Log, Topic, locate
from mamba_stream.log.opening import Place
from mamba_stream.messaging.books import Book, LogBook, PrivateBook
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.deadletters import DEAD
from mamba_stream.messaging.message import Message
from mamba_stream.messaging.parts import Mask
from mamba_stream.messaging.schema import is_message_schema
from mamba_stream.messaging.shared import Rule, SharedGroup, Terms
