"""Trackers: who else is told what the ledger is told."""

from pennyweight.training.trackers.tracker import Tracker, check_tracker, tracker_of

__all__ = ["Tracker", "check_tracker", "tracker_of"]
