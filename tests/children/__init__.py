"""What is first in the path of the processes that tests start."""

from pathlib import Path
from typing import Final

CHILDREN: Final = Path(__file__).parent
