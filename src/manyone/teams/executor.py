"""The READMEs of teams that version 0.1 saved import ``Decentralised`` from here."""

from manyone.teams.processes.executor import Decentralised as Decentralised
