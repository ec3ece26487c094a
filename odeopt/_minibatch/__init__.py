"""Training on mini-batches: no gradient of the whole loss, and an energy on examples that stay the same."""

from .rag import RAG as RAG
from .rag import RAGL as RAGL
from .settings import EnergyTournament as EnergyTournament
from .solution import COLUMNS as COLUMNS
from .solution import BatchHistory as BatchHistory
from .solution import BatchSolution as BatchSolution
from .training import Wishes as Wishes
from .training import train_on_batches as train_on_batches
