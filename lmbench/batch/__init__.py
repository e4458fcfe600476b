"""Batches: plans of notebooks x parameter grids, run unattended and resumed where they stopped."""

from lmbench.batch.plan import PlanRun, plans, read_plan
from lmbench.batch.run import ENGINES, check_engine, run_batch
from lmbench.batch.state import State, Watch

__all__ = ["ENGINES", "PlanRun", "State", "Watch", "check_engine", "plans", "read_plan", "run_batch"]
