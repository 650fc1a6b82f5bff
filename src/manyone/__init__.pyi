from . import behavior as behavior
from . import earth as earth
from . import merging as merging
from . import minimax as minimax
from . import policies as policies
from . import sql as sql
from . import teams as teams

__version__: str
