from .settings import EnergyTournament as EnergyTournament
