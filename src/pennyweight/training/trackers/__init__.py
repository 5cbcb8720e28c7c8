"""Trackers: who else is told what the ledger is told."""

from pennyweight.training.trackers.chosen import check_tracker, tracker_of
from pennyweight.training.trackers.tracker import Tracker

__all__ = ["Tracker", "check_tracker", "tracker_of"]
